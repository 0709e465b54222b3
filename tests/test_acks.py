"""Each delivery that is done, and no other, is acknowledged, in few frames."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.queues.acks import Acknowledger


class Channel:
    """Acknowledges as RabbitMQ does, and refuses a tag twice or unknown as RabbitMQ does."""

    def __init__(self):
        self.open = set()
        self.acked = set()
        self.frames = 0

    async def basic_ack(self, delivery_tag, multiple=False):  # noqa: FBT002
        await asyncio.sleep(0)
        self.frames += 1
        assert delivery_tag in self.open, "PRECONDITION_FAILED - unknown delivery tag"
        tags = {tag for tag in self.open if tag <= delivery_tag} if multiple else {delivery_tag}
        self.open -= tags
        self.acked |= tags


@given(st.data())
def test_exactly_what_is_done_is_acknowledged(data):
    async def run():
        channel = Channel()
        acks = Acknowledger(channel, together=8)
        count = data.draw(st.integers(1, 30))
        for tag in range(1, count + 1):
            channel.open.add(tag)
            acks.delivered(tag)
        done = data.draw(st.lists(st.integers(1, count), unique=True))
        for tag in done:
            acks.done(tag)
            if data.draw(st.booleans()):
                await asyncio.sleep(0)
        await acks.flush()
        assert channel.acked == set(done)

    asyncio.run(run())


async def test_an_unbroken_run_is_one_frame():
    channel = Channel()
    acks = Acknowledger(channel, together=100)
    for tag in range(1, 101):
        channel.open.add(tag)
        acks.delivered(tag)
        acks.done(tag)
    await acks.flush()
    assert channel.frames == 1
    assert len(channel.acked) == 100


@pytest.mark.parametrize("error", [Exception, asyncio.CancelledError])
async def test_a_connection_that_is_lost_costs_no_more_than_the_acknowledgements_on_it(error):
    class Closing:
        """What aiormq tells those who wait while it closes a connection without a reason."""

        async def basic_ack(self, delivery_tag, multiple=False):  # noqa: FBT002
            raise error

        async def basic_nack(self, delivery_tag, requeue):
            raise error

    acks = Acknowledger(Closing(), together=1)
    for tag in (1, 2):
        acks.delivered(tag)
    acks.done(1)
    await acks.flush()
    assert acks._flushing.exception() is None
    await acks.hand_back(2)
