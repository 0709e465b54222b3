"""Checking and rendering, with a Triton that lives in memory; its real twin is in test_tasks.py."""

import asyncio
import contextlib

import numpy as np
import pytest

from bridge import errors
from bridge.batcher import Batcher
from bridge.inference import Inference, Request
from bridge.inference.outage import Outage
from bridge.specs import InferReply, ModelSpec
from bridge.tensors import Tensor, TensorSpec


class DoublingTriton:
    """Doubles FP32 rows of four, up to eight at a time; can be reloaded with another signature."""

    def __init__(self):
        self.served = self.spec("FP32", 4)
        self.known = self.served
        self.fetched = 0

    @staticmethod
    def spec(datatype, width):
        return ModelSpec(
            "double",
            8,
            {
                "x": TensorSpec("x", datatype, (-1, width)),
                "bias": TensorSpec("bias", datatype, (-1, width), optional=True),
            },
            {"y": TensorSpec("y", datatype, (-1, width))},
        )

    async def model_spec(self, name, version="", *, fresh=False):
        if name != "double":
            raise errors.UnknownModelError(f"no {name}")
        if fresh:
            self.fetched += 1
            self.known = self.served
        return self.known

    async def infer(self, name, inputs, *, version="", timeout_s):
        if inputs["x"].datatype != self.served.inputs["x"].datatype:
            raise errors.TritonRefusedError("datatype")
        return InferReply(
            name, version or "1", {"y": Tensor.from_array(inputs["x"].to_array() * 2)}
        )


@pytest.fixture
def triton():
    return DoublingTriton()


async def run(triton, data, model="double", **options):
    return await Inference(triton).answer(
        Request(model, data, options.pop("version", None), timeout_s=1, **options)
    )


async def test_lists_in_lists_out(triton):
    assert await run(triton, {"x": [[1, 2, 3, 4.5]]}) == {
        "model_name": "double",
        "model_version": "1",
        "outputs": {"y": [[2.0, 4.0, 6.0, 9.0]]},
    }
    assert triton.fetched == 0


async def test_each_form_is_answered_in_kind(triton):
    data = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    assert (await run(triton, {"x": data}))["outputs"]["y"]["data"] == [2.0, 4.0, 6.0, 8.0]
    raw = np.arange(4, dtype="<f4").tobytes()
    data = {"datatype": "FP32", "shape": [1, 4], "raw": raw}
    reply = await run(triton, {"x": data}, binary=True)
    assert np.frombuffer(reply["outputs"]["y"]["raw"], "<f4").tolist() == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ({}, errors.MissingInputError, "input 'x' of model 'double' is missing; it takes x: FP32"),
        ({"x": [[1, 2, 3, 4]], "z": []}, errors.SurplusInputError, "no input 'z'; it takes"),
        ([1], errors.MalformedTensorError, "x: FP32 [-1, 4]"),
        ("text", errors.MalformedTensorError, "got str"),
        ({"x": [[1, 2, 3]]}, errors.ShapeError, "takes shape [-1, 4], got [1, 3]"),
        ({"x": [1, 2, 3, 4]}, errors.ShapeError, "wrap a single row in a list"),
        ({"x": []}, errors.EmptyBatchError, "no row"),
        (
            {"x": {"datatype": "FP32", "shape": [0, 4], "data": []}},
            errors.EmptyBatchError,
            "no row",
        ),
        (
            {"x": [[1, 2, 3, 4]] * 9},
            errors.TooManyRowsError,
            "9 rows; model 'double' takes at most 8",
        ),
        (
            {"x": [[1, 2, 3, 4]], "bias": [[1, 2, 3, 4]] * 2},
            errors.ShapeError,
            "same number of rows",
        ),
        ({"x": [[1, 2], [3]]}, errors.ShapeError, "takes shape [-1, 4], got [2, 2]"),
        ({"x": [[1, 2, 3, 4], [3]]}, errors.RaggedInputError, "'x'"),
        ({"x": [["a", "b", "c", "d"]]}, errors.DatatypeError, "takes FP32, got text"),
    ],
)
async def test_bad_input_is_named_after_one_look_at_triton(triton, data, error, text):
    with pytest.raises(error) as caught:
        await run(triton, data)
    assert type(caught.value) is error
    assert text in str(caught.value)
    assert triton.fetched == 1


@pytest.mark.parametrize("model", ["../double", "", None, 5, "a/b"])
async def test_a_bad_model_name_goes_nowhere(triton, model):
    with pytest.raises(errors.InvalidNameError):
        await run(triton, {}, model=model)


@pytest.mark.parametrize("version", ["x", "-1", "1/2", True, [1], "٣"])
async def test_a_bad_version_goes_nowhere(triton, version):
    with pytest.raises(errors.InvalidInputError, match="version must be"):
        await run(triton, {"x": [[1, 2, 3, 4]]}, version=version)


async def test_a_version_may_be_text_or_number(triton):
    for version in ("3", 3):
        reply = await run(triton, {"x": [[1, 2, 3, 4]]}, version=version)
        assert reply["model_version"] == "3"


async def test_a_reloaded_model_with_another_shape_is_understood(triton):
    triton.served = triton.spec("FP32", 2)
    reply = await run(triton, {"x": [[1, 2]]})
    assert reply["outputs"]["y"] == [[2.0, 4.0]]


async def test_a_reloaded_model_with_another_datatype_is_understood(triton):
    triton.served = triton.spec("INT32", 4)
    reply = await run(triton, {"x": [[1, 2, 3, 4]]})
    assert reply["outputs"]["y"] == [[2, 4, 6, 8]]


class Away:
    """Triton, away for some questions to come."""

    def __init__(self, triton, questions):
        self.left = questions
        self.outage = Outage("Triton", self.ready)
        self._answer = triton.infer
        triton.infer = self.infer

    async def infer(self, *arguments, **options):
        if self.left:
            raise errors.TritonUnavailableError("away")
        return await self._answer(*arguments, **options)

    async def ready(self):
        self.left = max(self.left - 1, 0)
        return not self.left


ROWS = {"x": [[1, 2, 3, 4]]}


async def test_a_triton_that_comes_back_in_time_is_waited_for(triton):
    away = Away(triton, 3)
    inference = Inference(triton, outage=away.outage)
    replies = await asyncio.gather(
        *(inference.answer(Request("double", ROWS, None, timeout_s=1)) for _ in range(5))
    )
    assert [reply["outputs"]["y"] for reply in replies] == [[[2.0, 4.0, 6.0, 8.0]]] * 5
    assert away.outage.began_at is None


async def test_one_that_does_not_come_back_is_the_end_of_the_callers_time(triton):
    away = Away(triton, 1000)
    inference = Inference(triton, outage=away.outage)
    with pytest.raises(errors.InferenceTimeoutError, match="while Triton was away"):
        await inference.answer(Request("double", ROWS, None, timeout_s=60, left_s=0.3))
    assert away.outage.began_at is not None
    assert away.outage.lasted_s > 0
    await away.outage.close()


async def test_the_log_says_why_triton_is_away(triton, caplog):
    away = Away(triton, 3)
    await Inference(triton, outage=away.outage).answer(Request("double", ROWS, None, timeout_s=1))
    assert "Triton is away: nothing is consumed until it is back (away)" in caplog.messages


async def test_without_a_limit_the_task_is_given_back_to_its_queue(triton, monkeypatch):
    monkeypatch.setattr("bridge.inference._AWAY_S", 0.2)
    away = Away(triton, 1000)
    with pytest.raises(errors.TritonUnavailableError):
        await Inference(triton, outage=away.outage).answer(
            Request("double", ROWS, None, timeout_s=0.1)
        )
    with pytest.raises(errors.TritonUnavailableError):
        await Inference(triton).answer(Request("double", ROWS, None, timeout_s=60))
    await away.outage.close()


async def test_what_waited_for_triton_is_let_go_with_its_error(triton, monkeypatch, leaving_no):
    monkeypatch.setattr("bridge.inference._AWAY_S", 0.2)
    for questions in (3, 1000):
        away = Away(triton, questions)
        with leaving_no(Request), contextlib.suppress(errors.TritonUnavailableError):
            await Inference(triton, outage=away.outage).answer(
                Request("double", ROWS, None, timeout_s=0.1)
            )
        await away.outage.close()


class Silent(Away):
    """Triton, behind a connection that is dead and does not say so."""

    async def infer(self, *arguments, **options):
        if self.left:
            raise errors.InferenceTimeoutError("no answer in time")
        return await self._answer(*arguments, **options)


async def test_a_limit_that_was_reached_because_triton_is_silent_is_no_end(triton, monkeypatch):
    silent = Silent(triton, 3)
    reply = await Inference(triton, outage=silent.outage).answer(
        Request("double", ROWS, None, timeout_s=0.1)
    )
    assert reply["outputs"]["y"] == [[2.0, 4.0, 6.0, 8.0]]
    monkeypatch.setattr("bridge.inference._AWAY_S", 0.2)
    silent = Silent(triton, 1000)
    with pytest.raises(errors.TritonUnavailableError, match="nor does it now"):
        await Inference(triton, outage=silent.outage).answer(
            Request("double", ROWS, None, timeout_s=0.1)
        )
    assert silent.outage.began_at is not None  # nothing is consumed meanwhile
    await silent.outage.close()


async def test_a_slow_model_is_not_taken_for_a_silent_triton(triton):
    Silent(triton, 1000)

    async def ready():
        return True

    outage = Outage("Triton", ready)
    with pytest.raises(errors.InferenceTimeoutError) as caught:
        await Inference(triton, outage=outage).answer(Request("double", ROWS, None, timeout_s=0.1))
    assert str(caught.value) == (
        "no answer within the time of one try, 0.1 s (label `timeout`, else "
        "BRIDGE_INFER_TIMEOUT_S): no answer in time"
    )
    with pytest.raises(errors.InferenceTimeoutError, match=r"^the deadline passed: no "):
        await Inference(triton, outage=outage).answer(
            Request("double", ROWS, None, timeout_s=60, left_s=0.1)
        )
    await outage.close()


async def test_a_batch_that_is_late_says_which_time_was_over(triton):
    async def never(*arguments, **options):
        await asyncio.sleep(60)

    batcher = Batcher(never)
    inference = Inference(triton, send=batcher.submit)
    for times, told in (
        ({"timeout_s": 0.1}, "no answer within the time of one try, 0.1 s (label `timeout`, "),
        ({"timeout_s": 60, "left_s": 0.1}, "the deadline passed: Triton did not answer in time"),
    ):
        with pytest.raises(errors.InferenceTimeoutError) as caught:
            await inference.answer(Request("double", ROWS, None, **times))
        assert str(caught.value).startswith(told)
    batcher.drop_abandoned()
    await asyncio.gather(*batcher._batches, return_exceptions=True)
