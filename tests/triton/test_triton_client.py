"""The gRPC client against real Triton servers."""

import asyncio
import contextlib
import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tritonclient.grpc import model_config_pb2

from bridge import errors, triton_channel, triton_client
from bridge.embedded.triton import TritonServer
from bridge.tensors import DTYPES, Tensor
from bridge.triton_client import TritonClient

WIDE = sorted(DTYPES.keys() - {"BYTES"})
X = Tensor.from_array(np.ones((2, 4), np.float32))


@pytest.fixture
async def client(triton):
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


async def test_a_spec_says_what_the_model_takes(client):
    spec = await client.model_spec("double")
    assert spec.max_batch_size == 8
    assert spec.mixable
    assert spec.inputs["x"].datatype == "FP32"
    assert spec.inputs["x"].shape == (-1, 4)
    fixed = await client.model_spec("fixed")
    assert not fixed.mixable
    assert fixed.inputs["x"].shape == (2, 2)


async def test_where_a_model_runs(client):
    assert await client.on_processors("double")
    with pytest.raises(errors.UnknownModelError):
        await client.on_processors("nope")


@pytest.mark.parametrize(
    ("kinds", "there"), [([2], True), ([2, 2], True), ([1], False), ([2, 1], False), ([], False)]
)
def test_one_instance_elsewhere_is_enough(kinds, there):
    config = model_config_pb2.ModelConfig()
    for kind in kinds:
        config.instance_group.add(kind=kind)
    assert triton_channel.runs_on_processors(config) is there


async def test_concurrent_spec_calls_share_one_request(client):
    specs = await asyncio.gather(*(client.model_spec("double") for _ in range(50)))
    assert all(spec is specs[0] for spec in specs)


async def test_a_spec_that_nobody_waits_for_any_more_fails_quietly():
    told = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        async with TritonClient(["127.0.0.1:1"]) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await client.model_spec("double")
            async with asyncio.timeout(20):
                while client._fetches:
                    await asyncio.sleep(0.05)
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert not told


@pytest.mark.parametrize(
    ("model", "inputs", "version", "error"),
    [
        ("nope", {"x": X}, "", errors.UnknownModelError),
        ("double", {"x": X}, "7", errors.UnknownModelError),
        ("double", {"z": X}, "", errors.TritonRefusedError),
        (
            "double",
            {"x": Tensor.from_array(np.ones((2, 3), np.float32))},
            "",
            errors.TritonRefusedError,
        ),
        (
            "double",
            {"x": Tensor.from_array(np.ones((9, 4), np.float32))},
            "",
            errors.TritonRefusedError,
        ),
        (
            "lookup",
            {"index": Tensor.from_array(np.array([[99]], np.int64))},
            "",
            errors.TritonRefusedError,
        ),
    ],
)
async def test_each_failure_has_its_class(client, model, inputs, version, error):
    with pytest.raises(errors.TritonError) as caught:
        await client.infer(model, inputs, version=version, timeout_s=5)
    assert type(caught.value) is error


class Inputs(dict):
    """Of one request."""


async def test_a_request_that_fails_is_let_go_with_its_error(client, leaving_no):
    index = Tensor.from_array(np.array([[99]], np.int64))
    with leaving_no(Inputs):
        for model in ("lookup", "nope"):
            with contextlib.suppress(errors.TritonError):
                await client.infer(model, Inputs(index=index), timeout_s=5)
            with contextlib.suppress(errors.TritonError):
                await client.model_spec(model, "7")


async def test_a_request_that_another_server_answers_is_let_go(triton, leaving_no):
    async with TritonClient(["127.0.0.1:1", triton.address]) as client:
        with leaving_no(Inputs):
            await client.infer("double", Inputs(x=X), timeout_s=5)


async def test_a_request_beyond_what_grpc_carries_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(triton_client, "_MOST_BYTES", 100_000)
    async with TritonClient(["127.0.0.1:1"]) as nobody:  # sending would say: unavailable
        with pytest.raises(errors.TritonRefusedError, match="gRPC carries 100,000"):
            await nobody.infer(
                "double", {"x": Tensor.from_array(np.ones(50_000, np.float32))}, timeout_s=5
            )


async def test_more_than_grpcs_default_of_4_mb_goes_through(client):
    array = (np.arange(2_000_000) % 100).reshape(1, -1)
    inputs = {f"in_{t}": Tensor.from_array(array.astype(DTYPES[t])) for t in WIDE}
    reply = await client.infer("wide", inputs, timeout_s=60)
    np.testing.assert_array_equal(reply.outputs["out_INT64"].to_array(), array)


async def test_a_deadline_ends_the_call(client):
    with pytest.raises(errors.InferenceTimeoutError):
        await client.infer("double", {"x": X}, timeout_s=0.00001)


async def test_a_deadline_may_be_any_time_off(client):
    reply = await client.infer("double", {"x": X}, timeout_s=1e308)
    assert reply.outputs["y"].to_array().tolist() == [[2] * 4] * 2


@pytest.mark.parametrize("first", [True, False])
async def test_a_server_that_is_away_may_have_what_one_that_is_there_lacks(triton, first):
    addresses = ["127.0.0.1:1", triton.address]
    async with TritonClient(addresses if first else addresses[::-1]) as client:
        for _ in range(2):
            with pytest.raises(errors.ModelUnavailableError, match="is away"):
                await client.infer("nobody", {"x": X}, timeout_s=5)
        assert (await client.infer("double", {"x": X}, timeout_s=5)).model_name == "double"


async def test_without_the_key_nobody_loads(triton):
    async with TritonClient([triton.address]) as stranger:
        for call in (stranger.load("double"), stranger.unload("double"), stranger.index()):
            with pytest.raises(errors.RestrictedError, match="TRITON_ADMIN_KEY"):
                await call
        assert (await stranger.infer("double", {"x": X}, timeout_s=5)).model_version == "1"


async def test_a_model_that_cannot_be_loaded_says_why(client, model_repository):
    broken = model_repository / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "1" / "model.onnx").write_bytes(b"not a model")
    (broken / "config.pbtxt").write_text((model_repository / "double" / "config.pbtxt").read_text())
    with pytest.raises(errors.ModelLoadError, match="could not load 'broken'"):
        await client.load("broken")
    with pytest.raises(errors.ModelLoadError):
        await client.load("nope")


async def test_nobody_there_is_a_reason_to_pause():
    async with TritonClient(["127.0.0.1:1"]) as client:
        assert not await client.ready()
        with pytest.raises(errors.TritonUnavailableError) as caught:
            await client.infer("double", {"x": X}, timeout_s=5)
    assert caught.value.fate is errors.Fate.HAND_BACK


async def test_two_replicas_share_the_work_and_one_may_die(state, model_repository):
    async with (
        TritonServer(state, model_repository, models=["double"]) as one,
        TritonServer(state, model_repository, models=["double"]) as other,
        TritonClient([one.address, other.address]) as client,
    ):
        failures = answers = 0
        stop = asyncio.Event()

        async def caller():
            nonlocal failures, answers
            while not stop.is_set():
                try:
                    await client.infer("double", {"x": X}, timeout_s=5)
                    answers += 1
                except errors.TritonUnavailableError:
                    failures += 1

        callers = [asyncio.create_task(caller()) for _ in range(8)]
        await asyncio.sleep(0.5)
        both = [await rows(server) for server in (one, other)]
        await one.kill()
        await asyncio.sleep(0.5)
        await one.start()
        deadline = time.monotonic() + 20
        while not await rows(one):
            assert time.monotonic() < deadline, "the restarted server got no work"
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*callers)
        assert min(both) > 0
        assert failures == 0
        assert answers > 0


async def rows(server):
    """Rows that a server has answered; gRPC may need a moment to see that it is back."""
    async with TritonClient([server.address]) as client:
        try:
            return sum(stats.inference_count for stats in await client.statistics("double"))
        except errors.TritonUnavailableError:
            return 0


async def test_what_may_have_killed_its_model_is_not_tried_on_the_next_server(
    state, model_repository
):
    async with (
        TritonServer(state, model_repository, models=["double"]) as first,
        TritonServer(state, model_repository, models=["double"]) as second,
        TritonClient([first.address, second.address]) as client,
    ):
        await client.infer("double", {"x": X}, timeout_s=10)
        kill_process_of("double", first)
        crashed = []
        client.on_crash(crashed.append)
        with pytest.raises(errors.BackendCrashedError):
            await client.infer("double", {"x": X}, timeout_s=10)
        assert crashed == ["double"]
        # Who comes later finds it dead, which is no reason not to ask the next server.
        reply = await client.infer("double", {"x": X}, timeout_s=10)
        assert reply.outputs["y"].to_array().tolist() == [[2, 2, 2, 2]] * 2


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling { step [{
  model_name: "%s" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" }
}] }
"""


def kill_process_of(model, server):
    for process in psutil.Process(server.process.pid).children(recursive=True):
        if process.status() != "zombie" and model in " ".join(process.cmdline()):
            process.kill()


async def test_a_crash_behind_an_ensemble_is_repaired(state, model_repository):
    for name, inner in (("around", "double"), ("outermost", "around")):
        (model_repository / name / "1").mkdir(parents=True)
        (model_repository / name / "config.pbtxt").write_text(ENSEMBLE % inner)
    models = ["double", "around", "outermost"]
    async with (
        TritonServer(state, model_repository, models=models) as server,
        TritonClient([server.address], server.admin_key) as client,
    ):
        await client.infer("outermost", {"x": X}, timeout_s=10)
        kill_process_of("double", server)
        with pytest.raises(errors.BackendCrashedError):
            await client.infer("outermost", {"x": X}, timeout_s=10)
        assert await client.reload("outermost")
        reply = await client.infer("outermost", {"x": X}, timeout_s=10)
        assert reply.outputs["y"].to_array().tolist() == [[2, 2, 2, 2]] * 2


async def test_a_reload_that_fails_at_first_is_tried_again(state, model_repository, monkeypatch):
    """As where memory is short still, after a process has died of that."""
    monkeypatch.setattr(triton_channel, "_LOADED_AGAIN_AFTER_S", (0.1,) * 300)
    file = model_repository / "double" / "1" / "model.onnx"
    async with (
        TritonServer(state, model_repository, models=["double"]) as server,
        TritonClient([server.address], server.admin_key) as client,
    ):
        kill_process_of("double", server)
        file.rename(file.with_name("away"))
        reloading = asyncio.create_task(client.reload("double"))
        try:
            async with asyncio.timeout(60):
                while not any(
                    "unloaded" not in m.reason and m.reason for m in await client.index()
                ):
                    await asyncio.sleep(0.05)
        finally:
            file.with_name("away").rename(file)
        assert await reloading
        await client.infer("double", {"x": X}, timeout_s=10)


@pytest.mark.parametrize("first", [True, False])
async def test_one_that_is_away_hides_no_others_models_and_counts(triton, first):
    """As `mlbridge models` shows them."""
    addresses = ["127.0.0.1:1", triton.address]
    async with TritonClient(
        addresses if first else addresses[::-1], admin_key=triton.admin_key
    ) as client:
        assert "double" in {it.name for it in await client.index()}
        assert "double" in {it.name for it in await client.statistics()}
    async with TritonClient(["127.0.0.1:1"]) as nobody:
        with pytest.raises(errors.TritonUnavailableError):
            await nobody.statistics()


async def test_one_that_is_away_keeps_no_other_from_unloading(triton):
    for addresses in ([triton.address, "127.0.0.1:1"], ["127.0.0.1:1", triton.address]):
        async with TritonClient(addresses, triton.admin_key) as client:
            with pytest.raises(errors.TritonUnavailableError):
                await client.unload("add_int")
        async with TritonClient([triton.address], triton.admin_key) as client:
            try:
                with pytest.raises(errors.ModelUnavailableError):
                    await client.infer("add_int", {"x": X}, timeout_s=5)
            finally:
                await client.load("add_int")


def stands_still(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(it.read_text().rpartition(")")[2].split()[0] == "T" for it in threads)


async def test_who_is_silent_about_a_model_is_away(client, triton, monkeypatch):
    """As behind a connection whose other end is gone: no fault of the task that asks."""
    await client.model_spec("double")
    monkeypatch.setattr(triton_channel, "_QUICK_S", 0.5)
    os.kill(triton.process.pid, signal.SIGSTOP)
    try:
        while not stands_still(triton.process.pid):  # one thread after the other
            await asyncio.sleep(0.01)
        with pytest.raises(errors.TritonUnavailableError, match="is silent"):
            await client.model_spec("double", fresh=True)
        with pytest.raises(errors.InferenceTimeoutError):  # this limit is the caller's
            await client.infer("double", {"x": X}, timeout_s=0.5)
    finally:
        os.kill(triton.process.pid, signal.SIGCONT)
    monkeypatch.undo()  # a busy machine may take longer
    await client.model_spec("double", fresh=True)
