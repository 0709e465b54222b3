"""What is too large or too late is an error of its own, in time."""

import asyncio

import pytest
from taskiq import TaskiqMessage, TaskiqResult

from bridge import errors, messages
from bridge.inference import Inference, Request
from bridge.messages import CONTENT_TYPE, MSGPACK, Formatter, decode_result, encode_result
from bridge.payloads import Payloads
from bridge.references import Reference, StoredTensor, new_key
from bridge.settings import Settings
from bridge.specs import ModelSpec
from bridge.tensors import TensorSpec

SPEC = ModelSpec("m", 8, {"x": TensorSpec("x", "FP32", (-1, 4))}, {})


class NeverStore:
    """Answers nobody."""

    async def get(self, key, size):
        await asyncio.sleep(3600)


class OneModel:
    """Knows one model, and must not be asked for more."""

    async def model_spec(self, name, version="", *, fresh=False):
        return SPEC


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_a_message_has_a_limit_where_one_is_set(labels):
    def message(size):
        return TaskiqMessage(
            task_id="1", task_name="t", labels=labels, args=["x" * size], kwargs={}
        )

    with pytest.raises(errors.MessageTooLargeError, match="BRIDGE_PAYLOAD_URL") as caught:
        Formatter(1000).dumps(message(1000))
    assert "BRIDGE_MAX_MESSAGE_BYTES allows 1,000" in str(caught.value)
    assert Formatter(1000).dumps(message(500)).message
    assert Formatter().dumps(message(10**6)).message


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_a_result_that_redis_would_not_keep_is_an_error(labels, monkeypatch):
    monkeypatch.setattr(messages, "_MOST_RESULT_BYTES", 1000)

    def result(size):
        return TaskiqResult.model_construct(
            is_err=False, return_value="x" * size, execution_time=0.1, labels=labels, error=None
        )

    assert not decode_result(encode_result(result(500))).is_err
    read = decode_result(encode_result(result(1000)))
    assert type(read.error) is errors.ResultTooLargeError
    assert "BRIDGE_PAYLOAD_URL" in str(read.error)


async def test_fetching_counts_against_the_deadline():
    payloads = Payloads(NeverStore(), Settings())
    stored = StoredTensor("FP32", (1, 4), Reference(new_key(2**31, shared=True), 16, "0" * 64))
    with pytest.raises(errors.InferenceTimeoutError, match="the inputs were not fetched"):
        await Inference(OneModel(), payloads=payloads).answer(
            Request("m", {"x": stored.written()}, None, timeout_s=0.05, binary=True)
        )


async def test_what_does_not_fit_the_model_is_never_fetched():
    payloads = Payloads(NeverStore(), Settings())
    large = StoredTensor("FP32", (9, 4), Reference(new_key(2**31, shared=True), 144, "0" * 64))
    for data, error in (
        ({"x": large.written()}, errors.TooManyRowsError),
        ({"x": large.written(), "z": []}, errors.SurplusInputError),
        ({"x": large.written() | {"shape": [4, 9]}}, errors.ShapeError),
    ):
        with pytest.raises(error):
            await Inference(OneModel(), payloads=payloads).answer(
                Request("m", data, None, timeout_s=60, binary=True)
            )


async def test_a_stored_payload_above_the_models_limit_is_refused_before_the_store_is_asked():
    payloads = Payloads(NeverStore(), Settings(bridge_payload_max_bytes=127))
    stored = StoredTensor("FP32", (8, 4), Reference(new_key(2**31, shared=True), 128, "0" * 64))
    with pytest.raises(errors.PayloadTooLargeError, match="input 'x'"):
        await Inference(OneModel(), payloads=payloads).answer(
            Request("m", {"x": stored.written()}, None, timeout_s=60, binary=True)
        )
