"""Versions taken out of service and put back, in a real Triton."""

import asyncio
import shutil

import numpy as np
import pytest

from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.errors import (
    InvalidNameError,
    ModelLoadError,
    ModelUnavailableError,
    PublishError,
    RestrictedError,
    UnknownModelError,
)
from bridge.repository import ModelRepository, restorable
from bridge.rollback import put_back, take_out
from bridge.tensors import Tensor
from bridge.triton_client import TritonClient

ROW = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture
def repository(triton):
    return ModelRepository(triton.repository)


@pytest.fixture
async def client(triton):
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


@pytest.fixture
async def model(client, repository, save_multiplier, request):
    """Version 1 doubles, version 2 triples; the newest is served."""
    name = request.node.name.replace("test_", "r_")[:60]
    save_multiplier(repository.root, name, 2.0)
    save_multiplier(repository.root, name, 3.0, version=2)
    await client.load(name)
    yield name
    await client.unload(name)
    shutil.rmtree(repository.root / name)


async def factor(client, model):
    reply = await client.infer(model, {"x": Tensor.from_array(ROW)}, timeout_s=30)
    return float(reply.outputs["y"].to_array()[0, 0])


async def test_out_and_back(client, repository, model):
    assert await factor(client, model) == 3
    out = await take_out(repository, client, model)
    assert (out.version, out.serving) == (2, [1])
    assert await factor(client, model) == 2
    back = await put_back(repository, client, model)
    assert (back.version, back.serving) == (2, [2])
    assert await factor(client, model) == 3


async def test_an_old_version_goes_and_nobody_notices(client, repository, model):
    assert (await take_out(repository, client, model, 1)).serving == [2]
    assert await factor(client, model) == 3
    assert repository.versions(model) == [2]
    with pytest.raises(UnknownModelError, match="has no version 1; it has 2"):
        await take_out(repository, client, model, 1)


async def test_the_last_version(client, repository, model):
    await take_out(repository, client, model)
    assert (await take_out(repository, client, model)).serving == []
    with pytest.raises(ModelUnavailableError):  # so that tasks wait
        await factor(client, model)
    with pytest.raises(UnknownModelError, match="there is no model"):
        await take_out(repository, client, model)
    assert restorable(repository, model) == [1, 2]
    assert (await put_back(repository, client, model, 1)).serving == [1]
    assert await factor(client, model) == 2


async def test_where_triton_cannot_load_the_one_before_nothing_changes(client, repository, model):
    (repository.root / model / "1" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelLoadError):
        await take_out(repository, client, model)
    assert repository.versions(model) == [1, 2]
    assert await factor(client, model) == 3


async def test_where_triton_cannot_load_what_comes_back_nothing_changes(client, repository, model):
    await take_out(repository, client, model)
    (repository.root / model / ".withdrawn-2" / "model.onnx").write_bytes(b"no network")
    with pytest.raises(ModelLoadError):
        await put_back(repository, client, model)
    assert repository.versions(model) == [1]
    assert await factor(client, model) == 2


async def test_a_model_that_a_person_unloaded_stays_so(client, repository, model):
    await client.unload(model)
    async with asyncio.timeout(60):
        while any(it.state != "UNAVAILABLE" for it in await client.index() if it.name == model):
            await asyncio.sleep(0.1)
    assert (await take_out(repository, client, model)).serving == []
    with pytest.raises(ModelUnavailableError):
        await factor(client, model)


async def test_where_nothing_is_served_as_the_newest_does_not_load(save_multiplier):
    """As after a restart of Triton: until then it serves the one before."""
    async with StateFolder() as state:
        repository = ModelRepository(state.room("models"))
        for name in ("one", "two"):
            save_multiplier(repository.root, name, 2.0)
            save_multiplier(repository.root, name, 3.0, version=2)
            (repository.root / name / "2" / "model.onnx").write_bytes(b"no network")
        save_multiplier(repository.root, "two", 4.0, version=3)
        (repository.root / "two" / "3" / "model.onnx").write_bytes(b"no network")
        async with (
            TritonServer(state, repository.root) as server,
            TritonClient([server.address], server.admin_key) as client,
        ):
            assert {it.state for it in await client.index()} == {"UNAVAILABLE"}
            assert (await take_out(repository, client, "one")).serving == [1]
            assert await factor(client, "one") == 2
            assert (await take_out(repository, client, "two")).serving == []
            assert (await take_out(repository, client, "two")).serving == [1]
            assert await factor(client, "two") == 2


async def test_of_several_tritons_the_first_may_not_serve_it(state, triton, repository, model):
    """It was taken for served by none, and the other served the bad version on."""
    bare = TritonServer(state, triton.repository, models=[], admin_key=triton.admin_key)
    async with bare:
        addresses = [bare.address, triton.address]
        async with TritonClient(addresses, triton.admin_key) as both:
            out = await take_out(repository, both, model)
            assert (out.version, out.serving) == (2, [1])
    async with TritonClient([triton.address]) as client:
        assert await factor(client, model) == 2


async def test_where_somebody_loses_patience_nothing_changes(
    client, repository, model, monkeypatch
):
    """Ctrl-C while Triton loads."""
    loading, load = asyncio.Event(), client.load

    async def slow(name):
        if not loading.is_set():
            loading.set()
            await asyncio.Event().wait()
        await load(name)

    monkeypatch.setattr(client, "load", slow)
    taking = asyncio.create_task(take_out(repository, client, model))
    await asyncio.wait_for(loading.wait(), 10)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert repository.versions(model) == [1, 2]
    assert await factor(client, model) == 3


async def test_two_at_once_take_out_one_after_the_other(client, repository, model, monkeypatch):
    """The second took out the version that the first had Triton load.

    The first put its bad one back, which served on.
    """
    loading, go_on, load = asyncio.Event(), asyncio.Event(), client.load

    async def slow(name):
        loading.set()
        await go_on.wait()
        await load(name)

    monkeypatch.setattr(client, "load", slow)
    first = asyncio.create_task(take_out(repository, client, model))
    await asyncio.wait_for(loading.wait(), 10)
    second = asyncio.create_task(take_out(repository, client, model))
    await asyncio.sleep(0.5)
    assert repository.versions(model) == [1]
    go_on.set()
    assert (await first).serving == [1]
    assert (await second).serving == []
    back = [put_back(repository, client, model, 2) for _ in range(2)]
    one, other = await asyncio.gather(*back, return_exceptions=True)
    assert one.serving == [2]
    assert "no version 2" in str(other)
    assert await factor(client, model) == 3


async def test_without_the_key_nothing_changes(triton, client, repository, model):
    async with TritonClient([triton.address], "wrong") as stranger:
        with pytest.raises(RestrictedError):
            await take_out(repository, stranger, model)
    assert repository.versions(model) == [1, 2]


async def test_a_repository_that_is_not_tritons(client, repository, model, tmp_path):
    shutil.copytree(repository.root / model, tmp_path / model)
    copy = ModelRepository(tmp_path)
    with pytest.raises(PublishError, match=r"serves version 2 of .* still: does it read"):
        await take_out(copy, client, model)
    assert copy.versions(model) == [1, 2]
    assert await factor(client, model) == 3


@pytest.mark.parametrize("name", ["../x", "", "a/b", "nowhere"])
async def test_names_that_are_none(client, repository, name):
    with pytest.raises((UnknownModelError, InvalidNameError), match=r"there is no model|must be"):
        await take_out(repository, client, name)
