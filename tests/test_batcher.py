"""Any mix of callers: each gets exactly its own rows, or its own error, within its deadline."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import errors
from bridge.batcher import Batcher
from bridge.batcher.limit import Limit
from bridge.specs import InferReply, ModelSpec
from bridge.tensors import Tensor, TensorSpec, join_rows, split_rows

POISON = -1.0


def spec(name="m", max_batch_size=8, *, mixable=True):
    shape = (-1, 2) if max_batch_size else (2,)
    return ModelSpec(
        name,
        max_batch_size,
        {"x": TensorSpec("x", "FP32", shape)},
        {"y": TensorSpec("y", "FP32", shape)},
        mixable,
    )


def rows(count, value):
    return {"x": Tensor.from_array(np.full((count, 2), value, np.float32))}


class Server:
    """Doubles rows after a while; refuses any batch with a poisoned row, as a strict model does."""

    def __init__(self, delay_s=0.0):
        self.delay_s = delay_s
        self.sizes = []
        self.names = []
        self.out = self.most_out = 0
        self.error = None

    async def __call__(self, name, inputs, *, version, timeout_s):
        self.sizes.append(inputs["x"].shape[0])
        self.names.append(name)
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.out -= 1
        if self.error:
            raise self.error
        x = inputs["x"].to_array()
        if (x == POISON).any():
            raise errors.TritonRefusedError("poison")
        return InferReply(name, version or "1", {"y": Tensor.from_array(x * 2)})


def doubled(reply):
    return reply.outputs["y"].to_array()


@st.composite
def callers(draw):
    count = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["good"] * 6 + ["poison", "cancelled", "late"]))
    return draw(st.sampled_from(["a", "b", "solo"])), count, kind, draw(st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(callers(), min_size=1, max_size=40), st.sampled_from([0.0, 0.002]))
def test_each_caller_gets_its_own_rows_or_its_own_error(mix, delay_s):
    asyncio.run(run_mix(mix, delay_s))


async def drained(batcher):
    """Nothing is waiting or out."""
    async with asyncio.timeout(30):
        while batcher._batches or any(lane.items for lane in batcher._lanes.values()):
            await asyncio.sleep(0)
            if batcher._batches:
                await asyncio.wait(batcher._batches)


async def run_mix(mix, delay_s):
    server = Server(delay_s)
    batcher = Batcher(server, {"b": 1500})

    async def call(number, model, count, kind, pause):
        await asyncio.sleep(pause / 1000)
        value = POISON if kind == "poison" else float(number + 1)
        shape = spec(model, mixable=model != "solo")
        timeout_s = 0.0 if kind == "late" else 30.0
        reply = batcher.submit(shape, rows(count, value), timeout_s=timeout_s)
        if kind == "cancelled":
            reply.cancel()
        return await reply

    answers = await asyncio.gather(
        *(call(number, *caller) for number, caller in enumerate(mix)), return_exceptions=True
    )
    await drained(batcher)
    for number, ((model, count, kind, _), answer) in enumerate(zip(mix, answers, strict=True)):
        if kind == "good":
            assert answer.model_name == model
            assert doubled(answer).tolist() == [[2.0 * (number + 1)] * 2] * count
        else:
            wanted = {
                "poison": errors.TritonRefusedError,
                "cancelled": asyncio.CancelledError,
                "late": errors.InferenceTimeoutError,
            }
            assert type(answer) is wanted[kind]
    assert max(server.sizes, default=0) <= 8
    assert not batcher._lanes, "lanes of shapes that nobody sends any more pile up"


async def test_what_gathers_while_a_batch_is_out_goes_together_and_never_too_many():
    server = Server(0.01)
    batcher = Batcher(server)
    first = batcher.submit(spec(), rows(1, 1), timeout_s=5)
    await asyncio.sleep(0.001)
    others = [batcher.submit(spec(), rows(3, i), timeout_s=5) for i in range(5)]
    await asyncio.gather(first, *others)
    assert server.sizes == [1, 6, 6, 3]


async def test_one_turn_of_the_loop_is_one_batch_and_nothing_waits_for_more():
    server = Server()
    batcher = Batcher(server)
    await asyncio.gather(*(batcher.submit(spec(), rows(1, i), timeout_s=5) for i in range(5)))
    assert server.sizes == [5]


async def test_a_model_may_wait_for_more_rows_but_not_when_its_batch_is_full():
    server = Server()
    batcher = Batcher(server, {"slow": 200_000})
    first = batcher.submit(spec("slow"), rows(1, 1), timeout_s=5)
    await asyncio.sleep(0.02)
    second = batcher.submit(spec("slow"), rows(2, 2), timeout_s=5)
    other = batcher.submit(spec("quick"), rows(1, 3), timeout_s=5)
    await other
    assert server.names == ["quick"]
    await asyncio.gather(first, second)
    assert server.sizes == [1, 3]
    full = [batcher.submit(spec("slow"), rows(8, i), timeout_s=5) for i in range(2)]
    await asyncio.sleep(0.01)
    assert server.sizes[2:] == [8, 8]
    await asyncio.gather(*full)
    await drained(batcher)


async def test_requests_in_flight_are_bounded():
    server = Server(0.001)
    batcher = Batcher(server)
    await asyncio.gather(*(batcher.submit(spec(), rows(8, i), timeout_s=30) for i in range(300)))
    assert server.most_out <= Limit().most + 1


async def test_a_full_batch_goes_one_ahead():
    server = Server(0.01)
    batcher = Batcher(server)
    replies = [batcher.submit(spec(), rows(8, i), timeout_s=5) for i in range(3)]
    await asyncio.sleep(0.001)
    assert server.sizes == [8, 8]
    await asyncio.gather(*replies)


async def test_a_flood_for_one_model_does_not_hold_up_another():
    server = Server(0.002)
    batcher = Batcher(server)
    flood = [batcher.submit(spec("flood"), rows(8, i), timeout_s=30) for i in range(100)]
    await asyncio.sleep(0.005)
    before = sum(reply.done() for reply in flood)
    await batcher.submit(spec("quiet"), rows(1, 1), timeout_s=30)
    # Out beside the flood, not behind it: what was out already may have come back meanwhile.
    assert sum(reply.done() for reply in flood) - before <= 2 * (Limit().most + 1)
    assert not all(reply.done() for reply in flood)
    await asyncio.gather(*flood)


@pytest.mark.parametrize("model", [spec(max_batch_size=0), spec(mixable=False)])
async def test_models_that_cannot_be_mixed_pass_one_by_one(model):
    server = Server()
    batcher = Batcher(server)
    inputs = {"x": Tensor.from_array(np.ones((2,), np.float32))}
    if model.max_batch_size:
        inputs = rows(2, 1)
    await asyncio.gather(*(batcher.submit(model, inputs, timeout_s=5) for _ in range(4)))
    assert len(server.sizes) == 4


async def test_an_outage_is_everybodys_and_is_not_halved():
    server = Server()
    server.error = errors.TritonUnavailableError("down")
    batcher = Batcher(server)
    replies = [batcher.submit(spec(), rows(1, i), timeout_s=5) for i in range(8)]
    answers = await asyncio.gather(*replies, return_exceptions=True)
    assert [type(answer) for answer in answers] == [errors.TritonUnavailableError] * 8
    assert len(server.sizes) == 1


async def test_a_fault_of_our_own_ends_its_batch_and_nothing_else(caplog):
    server = Server()
    batcher = Batcher(server)
    server.error = ZeroDivisionError("oops")
    with pytest.raises(errors.InferenceFailedError, match="oops"):
        await batcher.submit(spec(), rows(1, 1), timeout_s=5)
    server.error = None
    assert doubled(await batcher.submit(spec(), rows(1, 1), timeout_s=5)).tolist() == [[2, 2]]
    assert "failed unexpectedly" in caplog.text


async def test_a_fault_of_our_own_is_its_causes_alone():
    class Faulty(Server):
        async def __call__(self, name, inputs, *, version, timeout_s):
            if (inputs["x"].to_array() == POISON).any():
                raise ZeroDivisionError("oops")
            return await super().__call__(name, inputs, version=version, timeout_s=timeout_s)

    batcher = Batcher(Faulty())
    values = [1, 2, POISON, 3]
    replies = [batcher.submit(spec(), rows(1, value), timeout_s=5) for value in values]
    answers = await asyncio.gather(*replies, return_exceptions=True)
    assert isinstance(answers.pop(2), errors.InferenceFailedError)
    assert [doubled(answer).tolist() for answer in answers] == [[[2, 2]], [[4, 4]], [[6, 6]]]


async def test_a_batch_that_is_taken_back_before_it_began_holds_up_nobody():
    batcher = Batcher(Server())
    await batcher.submit(spec(), rows(1, 1), timeout_s=5)  # it is known to be fast
    given_up = batcher.submit(spec(), rows(8, 1), timeout_s=5)  # full: it goes at once
    given_up.cancel()
    batcher.drop_abandoned()
    async with asyncio.timeout(3):
        assert doubled(await batcher.submit(spec(), rows(1, 1), timeout_s=5)).tolist() == [[2, 2]]
        await drained(batcher)


async def test_what_is_refused_says_nothing_of_how_long_a_model_takes():
    class Strict(Server):
        async def __call__(self, name, inputs, *, version, timeout_s):
            if (inputs["x"].to_array() == POISON).any():
                raise errors.TritonRefusedError("at once")
            return await super().__call__(name, inputs, version=version, timeout_s=timeout_s)

    server = Strict(0.02)
    batcher = Batcher(server)
    for _ in range(3):
        with pytest.raises(errors.TritonRefusedError):
            await batcher.submit(spec(), rows(1, POISON), timeout_s=5)
    await asyncio.gather(*(batcher.submit(spec(), rows(8, i), timeout_s=30) for i in range(100)))
    assert server.most_out > 4  # taken for 0.1 ms fast, it would seem to be busy with one or two


async def test_nobody_waits_longer_than_its_deadline():
    batcher = Batcher(Server(5.0))
    started = time.perf_counter()
    with pytest.raises(errors.InferenceTimeoutError):
        await batcher.submit(spec(), rows(1, 1), timeout_s=0.02)
    assert time.perf_counter() - started < 2.0


async def test_an_output_that_is_not_row_by_row_is_asked_for_one_by_one():
    calls = []

    async def send(name, inputs, *, version, timeout_s):
        calls.append(inputs["x"].shape[0])
        total = np.array([inputs["x"].to_array().sum()], np.float32)
        return InferReply(name, "1", {"y": Tensor.from_array(total)})

    batcher = Batcher(send)
    replies = [batcher.submit(spec(), rows(2, i), timeout_s=5) for i in range(4)]
    answers = await asyncio.gather(*replies)
    assert [reply.outputs["y"].to_array().item() for reply in answers] == [0, 4, 8, 12]
    assert calls[0] == 8


@given(st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=1, max_size=6))
def test_text_rows_are_joined_and_cut_back(parts):
    tensors = [
        Tensor.from_array(np.array([*part, None], dtype=object)[:-1].reshape(-1, 1))
        for part in parts
    ]
    assert split_rows(join_rows(tensors), [len(part) for part in parts]) == tensors


def test_the_limit_follows_latency_within_its_bounds():
    limit = Limit()
    for _ in range(50):
        limit.succeeded(0.001, limit.current)
    assert limit.current == limit.most
    for _ in range(50):
        limit.succeeded(0.010, limit.current)
    assert limit.current < limit.most
    for _ in range(10):
        limit.failed()
    assert limit.current == limit.least


@pytest.mark.parametrize("shapes", [1, 1000])
async def test_who_has_gone_does_not_pile_up_behind_a_model_that_hangs(shapes):
    """Callers who wait for long hold the model; those who wait for less come and go."""
    batcher = Batcher(Server(delay_s=60))

    def submit(number, timeout_s):
        size = 1 + number % shapes
        inputs = {"x": Tensor.from_array(np.zeros((8, size), np.float32))}
        return batcher.submit(spec(), inputs, timeout_s=timeout_s)

    patient = [submit(number, 60) for number in range(20)]
    await asyncio.sleep(0.01)
    for start in range(0, 4000, 100):
        hurried = [submit(start + it, 0.001) for it in range(100)]
        hurried[0].cancel()
        await asyncio.gather(*hurried, return_exceptions=True)
    assert len(batcher._batches) < len(patient)
    in_line = [item for lane in batcher._lanes.values() for item in lane.items]
    assert sum(not item.reply.done() for item in in_line) == len(patient) - len(batcher._batches)
    assert len(in_line) < 500
    assert len(batcher._lanes) < 500
    for batch in batcher._batches:
        batch.cancel()
    for reply in patient:
        reply.cancel()
    await drained(batcher)
