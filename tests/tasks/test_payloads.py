"""Tensors by reference through real RabbitMQ, Redis, Triton and each kind of store."""

import asyncio
import contextlib
import json
import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aio_pika
import httpx
import numpy as np
import pytest
import redis.asyncio

from bridge import errors
from bridge.client import BridgeClient
from bridge.embedded.redis import RedisServer
from bridge.messages import decode_result
from bridge.payloads.stores import open_store
from bridge.references import Reference, StoredTensor, new_key
from bridge.settings import Settings
from bridge.triton_client import TritonClient

COMMAND = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]
X = np.arange(8, dtype=np.float32).reshape(2, 4)
LARGE = np.arange(6 * 2**18, dtype=np.float32).reshape(2, -1)  # 6 MiB
THRESHOLD = 24
Y32 = np.arange(4, dtype=np.float32).reshape(1, 4)  # 16 bytes: below it


@pytest.fixture(scope="session")
async def large_model(triton, model_repository, save_model):
    """`copy`: FP32 rows of any length."""
    from onnx import helper  # noqa: PLC0415 - only where the model is made

    node = helper.make_node("Identity", ["x"], ["y"])
    spec = [("x", "FP32", [-1])], [("y", "FP32", [-1])]
    save_model(model_repository, "copy", [node], *spec)
    async with TritonClient([triton.address], triton.admin_key) as client:
        await client.load("copy")


def queue_variables(name):
    inference = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), name)
    training = ("TASKIQ_ML_TRAINING_QUEUE", "TASKIQ_ML_TRAINING_ROUTING_KEY")
    return inference | dict.fromkeys(training, f"{name}_t")


def store_variables(variables):
    own = {"BRIDGE_PAYLOAD_THRESHOLD_BYTES": str(THRESHOLD)}
    return variables | own | queue_variables(f"q{uuid.uuid4().hex}")


def settings_of(variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return Settings()


@pytest.fixture(scope="module", params=["file", "s3", "redis"])
def variables(request, environment, new_store):
    return store_variables(environment | new_store(request.param))


@pytest.fixture(scope="module")
def here(variables):
    return settings_of(variables)


@pytest.fixture(scope="module")
async def store(here):
    store = open_store(here)
    yield store
    await store.close()


@pytest.fixture(scope="module")
async def caller(here, variables, module_worker, large_model):
    async with BridgeClient(here) as client:  # first: it declares the queues
        await module_worker([*COMMAND, "--workers", "1"], variables)
        yield client


def names_in(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


async def keys_in(here):
    """What lies in the store, or in Redis beside results."""
    url = urlsplit(here.bridge_payload_url.get_secret_value())
    if url.scheme == "file":
        return names_in(Path(unquote(url.path)))
    if url.scheme == "s3":
        query = {"list-type": "2", "prefix": url.path[1:]}
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"{here.bridge_payload_endpoint}/{url.netloc}", params=query)
        keys = answer.text.split("<Key>")[1:]
        return {key.partition("</Key>")[0].rpartition("/")[2] for key in keys}
    async with redis.asyncio.from_url(url.geturl()) as client:
        return {key.decode().rpartition(":")[2] async for key in client.scan_iter("bridge:pay*")}


async def settled(here):
    """`keys_in`, once what the test before set off has been deleted."""
    keys = await keys_in(here)
    while True:
        await asyncio.sleep(0.3)
        again = await keys_in(here)
        if again == keys:
            return keys
        keys = again


async def soon(here, expected):
    """Deletions gather in the background."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while await keys_in(here) != expected:
                await asyncio.sleep(0.02)
    assert await keys_in(here) == expected


async def publish(here, *arguments, labels=None, task_id=None):
    body = {
        "task_id": task_id or uuid.uuid4().hex,
        "task_name": "ml_inference",
        "labels": labels or {},
        "args": list(arguments),
        "kwargs": {},
    }
    connection = await aio_pika.connect(here.rabbitmq_url)
    async with connection:
        exchange = await (await connection.channel()).get_exchange(here.taskiq_ml_exchange)
        message = aio_pika.Message(json.dumps(body).encode())
        await exchange.publish(message, routing_key=here.taskiq_ml_routing_key)
    return body["task_id"]


async def read(here, task_id):
    async with (
        redis.asyncio.from_url(here.redis_url.get_secret_value()) as client,
        asyncio.timeout(20),
    ):
        while (value := await client.get(task_id)) is None:
            await asyncio.sleep(0.01)
    return decode_result(value)


async def test_large_inputs_and_outputs_go_beside_the_message(caller, here):
    before = await settled(here)
    result = await caller.infer("copy", {"x": LARGE})
    np.testing.assert_array_equal(result.outputs["y"], LARGE)
    handle = await caller.submit("copy", {"x": LARGE})
    again = await handle.result(20, keep=True)
    np.testing.assert_array_equal(again.outputs["y"], LARGE)
    reply = await caller.handle(handle.task_id).result(20)
    assert reply["outputs"]["y"]["shape"] == [2, LARGE.shape[1]]
    assert set(reply["outputs"]["y"]["ref"]) == {"key", "size", "sha256"}
    async with redis.asyncio.from_url(here.redis_url.get_secret_value()) as client:
        assert await client.strlen(handle.task_id) < 1000
    await soon(here, before | {reply["outputs"]["y"]["ref"]["key"]})
    read_elsewhere = await caller.inference(handle.task_id).result(20)
    np.testing.assert_array_equal(read_elsewhere.outputs["y"], LARGE)
    await soon(here, before)
    with pytest.raises(errors.PayloadMissingError, match="output 'y'"):
        await caller.read_reply(reply)


async def test_a_result_that_was_read_is_still_there_for_its_handle(caller, here):
    before = await settled(here)
    handle = await caller.submit("double", {"x": X})
    np.testing.assert_array_equal((await handle.result(20)).outputs["y"], X * 2)
    await soon(here, before)
    np.testing.assert_array_equal((await handle.result(20)).outputs["y"], X * 2)


async def test_lists_go_inline_and_their_large_outputs_do_not(caller):
    reply = await caller.handle((await caller.submit("double", {"x": X.tolist()})).task_id).result()
    assert "ref" in reply["outputs"]["y"]
    assert (await caller.read_reply(reply)).outputs["y"].dtype == np.float32
    small = await caller.submit("double", {"x": Y32})
    reply = await caller.handle(small.task_id).result()
    assert reply["outputs"]["y"]["raw"] == (Y32 * 2).tobytes()


async def test_an_uploaded_array_serves_many_tasks(caller, here):
    before = await settled(here)
    shared = await caller.upload(X)
    results = await asyncio.gather(*(caller.infer("double", {"x": shared}) for _ in range(20)))
    for result in results:
        np.testing.assert_array_equal(result.outputs["y"], X * 2)
    with pytest.raises(errors.ShapeError, match="takes shape"):
        await caller.infer("fixed", {"x": shared})
    await soon(here, before | {shared.reference.key})
    np.testing.assert_array_equal((await caller.infer("double", {"x": shared})).outputs["y"], X * 2)


async def test_text_goes_by_reference_too(caller):
    words = np.array([["ä" * 100], ["b"]], dtype=object)
    result = await caller.infer("echo_text", {"text": words})
    assert result.outputs["echo"].tolist() == [["ä".encode() * 100], [b"b"]]


async def test_a_json_caller_gets_what_it_knows(caller, here, store):
    before = await settled(here)
    large = [[float(i) for i in range(4)]] * 8
    for form, expected in (
        (large, [[2 * v for v in row] for row in large]),
        (
            {"datatype": "FP32", "shape": [8, 4], "data": large},
            {"datatype": "FP32", "shape": [8, 4], "data": [2 * v for row in large for v in row]},
        ),
    ):
        result = await read(here, await publish(here, "double", {"x": form}))
        assert result.return_value["outputs"]["y"] == expected
    assert await keys_in(here) == before
    # One that wrote a payload itself, by the rules of docs/calling.md, gets a reference.
    shared = await caller.upload(X)
    result = await read(here, await publish(here, "double", {"x": shared.written()}))
    output = result.return_value["outputs"]["y"]
    data = await store.get(output["ref"]["key"], 32)
    np.testing.assert_array_equal(np.frombuffer(data, np.float32).reshape(2, 4), X * 2)


async def test_wrong_references_are_the_callers_and_the_worker_goes_on(caller, here, store):
    before = await settled(here)
    shared = await caller.upload(X)
    good = shared.written()
    ref = good["ref"]
    gone = new_key(shared.reference.expires_at, shared=False)
    await store.put(gone[:-1] + "0", b"truncated")
    truncated = ref | {"key": gone[:-1] + "0"}
    wrong = [
        (good | {"ref": ref | {"key": gone[:-1] + "1"}}, errors.PayloadMissingError),
        (good | {"ref": ref | {"key": "1000000000-t-" + "0" * 32}}, errors.PayloadMissingError),
        (good | {"ref": truncated}, errors.PayloadMismatchError),
        (good | {"ref": ref | {"sha256": "0" * 64}}, errors.PayloadMismatchError),
        (good | {"ref": ref | {"size": 31}}, errors.ShapeError),
        (good | {"shape": [2**40, 4]}, errors.ShapeError),
        (good | {"shape": [4, 2]}, errors.ShapeError),
        (good | {"shape": [1000, 4], "ref": ref | {"size": 16_000}}, errors.TooManyRowsError),
        (good | {"datatype": "INT32"}, errors.DatatypeError),
        (good | {"ref": ref | {"key": "../../etc/passwd"}}, errors.MalformedReferenceError),
        (good | {"ref": ref | {"url": "http://evil"}}, errors.MalformedReferenceError),
        (good | {"ref": 5}, errors.MalformedReferenceError),
    ]
    ids = [await publish(here, "double", {"x": value}) for value, _ in wrong]
    for task_id, (_, expected) in zip(ids, wrong, strict=True):
        error = (await read(here, task_id)).error
        assert type(error) is expected
        assert "input 'x'" in str(error)
    await soon(here, before | {shared.reference.key})  # what was called its own is gone
    np.testing.assert_array_equal((await caller.infer("double", {"x": shared})).outputs["y"], X * 2)


@pytest.mark.parametrize("variables", ["file"], indirect=True)
async def test_a_task_that_was_run_twice_keeps_its_first_result(caller, here):
    handle = await caller.submit("double", {"x": X})
    await handle.result(20, keep=True)
    # The same again, delivered to somebody who did not see the result in time: its input has gone.
    lost = StoredTensor("FP32", (2, 4), Reference(new_key(2**31, shared=False), 32, "0" * 64))
    await publish(here, "double", {"x": lost.written()}, task_id=handle.task_id)
    last = await publish(here, "double", {"x": Y32.tolist()})
    await read(here, last)
    await asyncio.sleep(0.1)
    reply = await caller.handle(handle.task_id).result(20)
    np.testing.assert_array_equal((await caller.read_reply(reply)).outputs["y"], X * 2)


@pytest.mark.parametrize("variables", ["file"], indirect=True)
async def test_a_task_that_never_came_to_the_queue_leaves_no_payload(here, monkeypatch, rabbitmq):
    before = await settled(here)
    async with BridgeClient(here) as client:
        broker = client._connections.broker("inference")

        async def refuse(message):
            raise errors.QueueError("no")

        monkeypatch.setattr(broker, "kick", refuse)
        with pytest.raises(errors.QueueError):
            await client.submit("double", {"x": X})
        await soon(here, before)


class Inputs(dict):
    """Of one call."""


@pytest.mark.parametrize(("rows", "error"), [(1, errors.ShapeError), (2**20, errors.BridgeError)])
async def test_a_callers_arrays_are_let_go_with_the_error(client, leaving_no, rows, error):
    """Of the worker, and of a message that is not sent."""
    with leaving_no(Inputs):
        with contextlib.suppress(error):
            await client.infer("double", Inputs(x=np.zeros((rows, 8), np.float32)))
        await asyncio.sleep(0)


async def test_a_message_too_large_for_the_broker_is_not_sent(client, settings, worker):
    array = np.zeros((8, 2**20), np.float32)
    with pytest.raises(errors.MessageTooLargeError, match="BRIDGE_PAYLOAD_URL") as caught:
        await client.infer("copy", {"x": array})
    assert "33,554" in str(caught.value)
    result = await client.infer("double", {"x": X})
    np.testing.assert_array_equal(result.outputs["y"], X * 2)


async def test_without_a_store_a_reference_is_refused(client):
    reference = Reference(new_key(2**31, shared=True), 32, "0" * 64)
    with pytest.raises(errors.NoPayloadStoreError, match="input 'x' is a reference"):
        await client.infer("double", {"x": StoredTensor("FP32", (2, 4), reference)})
    with pytest.raises(errors.NoPayloadStoreError, match="BRIDGE_PAYLOAD_URL"):
        await client.upload(X)


async def test_a_store_that_is_down_is_named_and_the_worker_goes_on(environment, state, new_worker):
    async with RedisServer(state) as server:
        few = {"BRIDGE_MAX_RETRIES": "1", "BRIDGE_RETRY_FIRST_S": "0.1"}
        variables = store_variables(environment | {"BRIDGE_PAYLOAD_URL": server.url} | few)
        async with BridgeClient(settings_of(variables)) as client:
            await new_worker([*COMMAND, "--workers", "1"], variables)
            shared = await client.upload(X)
            await server.stop()
            small = await client.infer("double", {"x": Y32})
            np.testing.assert_array_equal(small.outputs["y"], Y32 * 2)
            with pytest.raises(errors.PayloadStoreError, match="input 'x': cannot use"):
                await client.infer("double", {"x": shared}, timeout_s=20)
            with pytest.raises(errors.PayloadStoreError, match="input 'x': cannot use"):
                await client.infer("double", {"x": X})
            await server.start()
            again = await client.infer("double", {"x": shared}, timeout_s=20)
            np.testing.assert_array_equal(again.outputs["y"], X * 2)


async def test_what_belonged_to_a_task_that_never_ran_goes_too(environment, tmp_path, new_worker):
    folder = tmp_path / "store"
    folder.mkdir()
    variables = store_variables(environment | {"BRIDGE_PAYLOAD_URL": folder.as_uri()})
    async with BridgeClient(settings_of(variables)) as client:
        expired = await client.submit("double", {"x": X}, timeout_s=0.05)
        cancelled = await client.submit("double", {"x": X})
        assert await cancelled.cancel()
        await asyncio.sleep(0.1)
        assert len(names_in(folder)) == 2
        await new_worker([*COMMAND, "--workers", "1"], variables)
        with pytest.raises(errors.TaskExpiredError):
            await expired.result(20)
        with pytest.raises(errors.TaskCancelledError):
            await cancelled.result(20)
        async with asyncio.timeout(20):
            while names_in(folder):
                await asyncio.sleep(0.05)
