"""The producer's door where no server is needed; with servers it is in tests/tasks."""

import asyncio

import numpy as np
import pytest
from taskiq import TaskiqResult

from bridge import errors
from bridge.client import BridgeClient, InferenceResult, decode_reply
from bridge.payloads import open_payloads
from bridge.settings import Settings

REPLY = {
    "model_name": "double",
    "model_version": "3",
    "outputs": {"y": {"datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}},
}


class Told(BridgeClient):
    """Every task has ended, with this value or error."""

    def __init__(self, value=None, error=None):
        super().__init__(Settings())
        self._told = TaskiqResult(
            is_err=error is not None, return_value=value, error=error, execution_time=0.1
        )

    async def wait(self, task_id, waiter=None, *, once=False):
        assert waiter is None
        return self._told


async def test_an_inference_from_elsewhere_is_arrays_and_any_other_handle_is_what_was_sent():
    client = Told(REPLY)
    result = await client.inference("order:42/7").result(1)
    assert isinstance(result, InferenceResult)
    assert (result.model_name, result.model_version) == ("double", "3")
    np.testing.assert_array_equal(result.outputs["y"], np.array([[2, 4]], np.float32))
    assert await client.handle("order:42/7").result(1) == REPLY


@pytest.mark.parametrize("value", [42, None, {"model_name": "iris", "model_version": "1"}])
async def test_what_is_no_inference_says_so(value):
    with pytest.raises(errors.BridgeError, match="task t is no inference"):
        await Told(value).inference("t").result(1)


async def test_an_inference_that_failed_raises_what_it_is():
    with pytest.raises(errors.ShapeError, match="rows"):
        await Told(error=errors.ShapeError("rows")).inference("t").result(1)


@pytest.mark.parametrize("task_id", ["", "a b", "bridge:job:1", "x__progress", 5])
async def test_what_no_worker_takes_has_no_handle(task_id):
    client = BridgeClient(Settings())
    for ask in (client.handle, client.inference):
        with pytest.raises(errors.InvalidNameError, match="a task's id must be"):
            ask(task_id)
    for ask in (client.cancel, client.pause, client.resume):
        with pytest.raises(errors.InvalidNameError):
            await ask(task_id)


async def test_without_async_with_it_says_what_is_missing():
    client = BridgeClient(Settings())
    with pytest.raises(errors.QueueError, match="async with BridgeClient"):
        await client.submit("double", {"x": [[1, 2]]})
    for ask in (client.resume, client.progress):
        with pytest.raises(errors.QueueError, match="async with BridgeClient"):
            await ask("t")


async def never(*arguments, **options):
    await asyncio.Event().wait()


async def test_sending_takes_no_longer_than_the_caller_waits(monkeypatch):
    client = Told(REPLY)
    monkeypatch.setattr(client._connections, "send", never)
    with pytest.raises(errors.QueueError, match=r"not taken within 0\.1 s"):
        await asyncio.wait_for(client.infer("double", {"x": [[1]]}, timeout_s=0.1), 60)
    monkeypatch.setattr("bridge.client.door._LEAST_SENDING_S", 0.2)
    with pytest.raises(errors.QueueError, match=r"not taken within 0\.2 s"):
        await asyncio.wait_for(client.submit("double", {"x": [[1]]}, timeout_s=0), 60)


@pytest.mark.parametrize("timeout_s", [0, -1.5, float("nan")])
async def test_who_does_not_wait_does_not_send(monkeypatch, timeout_s):
    """As with what a deadline of one's own has left."""
    client = Told(REPLY)
    monkeypatch.setattr(client._connections, "send", never)
    with pytest.raises(errors.QueueError, match=f"not sent: its caller waits for {timeout_s:g} s"):
        await asyncio.wait_for(client.infer("double", {"x": [[1]]}, timeout_s=timeout_s), 60)


async def test_who_waits_without_end_has_no_deadline(monkeypatch):
    sent = []

    async def kick(kind, name, args, labels):
        sent.append(labels)
        return "t", None

    client = Told(REPLY)
    monkeypatch.setattr(client._connections, "send", kick)
    for timeout_s in (float("inf"), None):
        await client.infer("double", {"x": [[1]]}, timeout_s=timeout_s)
    assert sent == [{}, {}]


@pytest.mark.parametrize("inputs", [None, [[1.0]], "x"])
async def test_inputs_without_names_are_no_inputs(inputs):
    with pytest.raises(errors.InvalidInputError, match="give each by its name"):
        await Told(REPLY).submit("double", inputs)


async def test_fetching_takes_no_longer_than_the_caller_waits(monkeypatch):
    client = Told(REPLY)
    monkeypatch.setattr(client, "read_reply", never)
    with pytest.raises(errors.ResultTimeoutError, match=r"has ended, .* within 0\.1 s"):
        await asyncio.wait_for(client.inference("t").result(0.1), 60)
    monkeypatch.undo()
    assert (await client.inference("t").result(0.1)).model_name == "double"


async def test_an_array_without_elements_is_no_upload(tmp_path):
    client = BridgeClient(Settings())
    client._connections.payloads = open_payloads(Settings(bridge_payload_url=tmp_path.as_uri()))
    with pytest.raises(errors.ShapeError, match="without elements"):
        await client.upload(np.zeros((0, 4), np.float32))
    await client.close()


def test_wide_integers_in_nested_lists_stay_what_they_are():
    wide = [[0, 2**63 + 1], [2**64 - 1, 1]]
    outputs = {"wide": wide, "none": [], "mixed": [-1, 2**63], "fractions": [0.5, 1e300]}
    arrays = decode_reply({**REPLY, "outputs": outputs}).outputs
    assert arrays["wide"].dtype == np.uint64
    assert arrays["wide"].tolist() == wide
    assert arrays["none"].shape == (0,)
    assert arrays["mixed"].dtype == np.float64
    assert arrays["fractions"].tolist() == [0.5, 1e300]
