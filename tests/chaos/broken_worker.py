"""A worker that loses: it acknowledges every hundredth message and forgets it."""

import itertools

from bridge.broker import broker

_numbers = itertools.count(1)
_take = broker.intake.take


async def _take_most(delivery):
    if next(_numbers) % 100:
        return await _take(delivery)
    await delivery.ack()
    return True


broker.intake.take = _take_most
