"""The open loop: calls begin when they are due, whatever earlier ones do."""

import asyncio

from bridgebench.arrivals import offer
from bridgebench.callers import side_by_side


async def test_slow_calls_do_not_hold_up_later_ones():
    out, most = 0, 0

    async def call():
        nonlocal out, most
        out += 1
        most = max(most, out)
        await asyncio.sleep(0.2)
        out -= 1

    offered = await offer(call, per_s=200, seconds=0.5, seed=0)
    assert most > 10
    assert len(offered.latency_ms) == round(offered.offered_per_s * 0.5)
    assert not offered.gave_up
    assert min(offered.latency_ms) >= 200


async def test_time_in_line_counts():
    gate = asyncio.Lock()

    async def call():
        async with gate:
            await asyncio.sleep(0.02)

    # 5 times what it can serve: a closed loop would report 20 ms.
    offered = await offer(call, per_s=250, seconds=0.4, seed=0)
    assert max(offered.latency_ms) > 500


async def test_a_closed_loop_ends_with_the_first_error():
    async def call():
        raise OSError("away")

    try:
        await side_by_side(call, in_flight=2, seconds=0.1)
    except OSError as error:
        assert str(error) == "away"
    else:
        raise AssertionError("the error was lost")
