"""Each kind of store, on real servers: what is put is got, and what is wrong is named."""

import asyncio
import contextlib
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import redis.asyncio
from pydantic import ValidationError

from bridge import errors
from bridge.embedded.redis import RedisServer
from bridge.payloads import open_payloads
from bridge.payloads.stores import open_store
from bridge.references import Reference, StoredTensor, new_key
from bridge.settings import Settings
from bridge.tensors import raw_view

HOUR_S = 3600


def settings_of(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture(params=["file", "s3", "redis"])
def settings(request, new_store, monkeypatch):
    return settings_of(monkeypatch, new_store(request.param))


@pytest.fixture
async def store(settings):
    store = open_store(settings)
    yield store
    await store.close()


@pytest.fixture
async def payloads(settings):
    payloads = open_payloads(settings)
    yield payloads
    await payloads.close()


def tensors_of(**arrays):
    return {
        name: (datatype, array.shape, data)
        for name, array in arrays.items()
        for datatype, data in [raw_view(array)]
    }


def fresh_key(*, shared=False):
    return new_key(int(time.time()) + HOUR_S, shared=shared)


def all_in(folder):
    return sorted(item.name for item in folder.rglob("*"))


def names_in(folder):
    """All but payloads."""
    return sorted(item.name for item in folder.rglob("*") if len(item.name) < 45)


async def test_what_is_put_is_got_and_deleted(store):
    key, other = fresh_key(), fresh_key()
    data = bytes(range(256)) * 1000
    await store.put(key, memoryview(data))
    await store.put(other, b"x")
    assert bytes(await store.get(key, len(data))) == data
    await store.delete([key, fresh_key()])  # one that is not there
    assert await store.get(key, len(data)) is None
    assert bytes(await store.get(other, 1)) == b"x"
    await store.delete([other])


@pytest.mark.parametrize("said", [1, 4, 6, 10**12])
async def test_another_size_is_found_before_it_is_read(store, said):
    key = fresh_key()
    await store.put(key, b"12345")
    with pytest.raises(errors.PayloadMismatchError, match=f"should have {said:,} bytes"):
        await store.get(key, said)


async def test_a_large_payload_goes_in_pieces(store):
    data = np.random.default_rng(1).bytes(65 * 2**20)
    key = fresh_key()
    await store.put(key, data)
    assert memoryview(await store.get(key, len(data))) == data
    await store.delete([key])


async def test_arrays_go_and_come_side_by_side(payloads):
    arrays = {
        "a": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "b": np.arange(24, dtype=">i8").reshape(4, 6)[:, ::2],
        "c": np.array([[True], [False]]),
        "d": np.array([["ä", "longer"]], dtype=object),
        "e": np.float16(3.5).reshape(()),
    }
    stored = await payloads.put("input", tensors_of(**arrays))
    assert stored["a"].shape == (2, 3, 4)
    got = await payloads.get("input", stored)
    for name in "abce":
        np.testing.assert_array_equal(got[name].to_array(), arrays[name])
    assert got["d"].to_array().tolist() == [["ä".encode(), b"longer"]]
    async with payloads.held(stored) as held:
        assert all(type(tensor.data) is bytes for tensor in held.values())
        assert held["a"].data == arrays["a"].tobytes()


async def test_payloads_are_let_go_with_the_error_of_one(payloads, store, leaving_no):
    stored = await payloads.put("input", tensors_of(x=np.ones(4, np.float32), y=np.ones(4)))
    await store.put(stored["x"].reference.key, np.zeros(4, np.float32).tobytes())
    with leaving_no(errors.PayloadMismatchError):
        with contextlib.suppress(errors.PayloadMismatchError):
            await payloads.get("input", stored)
        await asyncio.sleep(0)  # the loop's turn, in which it was raised, holds it too


async def test_missing_and_tampered_payloads_are_named(payloads, store):
    stored = await payloads.put("input", tensors_of(x=np.ones(4, np.float32)))
    reference = stored["x"].reference
    await store.put(reference.key, np.zeros(4, np.float32).tobytes())
    with pytest.raises(errors.PayloadMismatchError, match=r"input 'x': .* SHA-256"):
        await payloads.get("input", stored)
    await store.put(reference.key, b"short")
    with pytest.raises(errors.PayloadMismatchError, match=r"input 'x': .* 16 bytes and has 5"):
        await payloads.get("input", stored)
    await store.delete([reference.key])
    with pytest.raises(errors.PayloadMissingError, match=r"input 'x': .* its task has ended"):
        await payloads.get("input", stored)
    past = new_key(int(time.time()) - 60, shared=False)
    expired = {"x": StoredTensor("FP32", (4,), Reference(past, 16, reference.sha256))}
    with pytest.raises(errors.PayloadMissingError, match=r"input 'x': .* expired 6\d s ago"):
        await payloads.get("input", expired)


async def test_discarded_payloads_go_and_shared_ones_stay_for_others(payloads):
    one = await payloads.put("input", tensors_of(x=np.ones(4)))
    shared = await payloads.put("array", tensors_of(x=np.ones(4)), shared=True)
    payloads.discard([one["x"].reference.key])
    async with asyncio.timeout(10):
        while True:
            try:
                await payloads.get("input", one)
            except errors.PayloadMissingError:
                break
    np.testing.assert_array_equal((await payloads.get("input", shared))["x"].to_array(), np.ones(4))


@pytest.mark.parametrize("settings", ["file", "s3"], indirect=True)
async def test_the_sweep_deletes_what_expired_and_nothing_else(store, payloads):
    now = time.time()
    old = [new_key(int(now - HOUR_S - i), shared=bool(i % 2)) for i in range(5)]
    young = [new_key(int(now + HOUR_S + i), shared=bool(i % 2)) for i in range(5)]
    for key in old + young:
        await store.put(key, b"data")
    assert await payloads.sweep() == 5
    assert [await store.get(key, 4) for key in old] == [None] * 5
    assert [bytes(await store.get(key, 4)) for key in young] == [b"data"] * 5
    assert await payloads.sweep() == 0
    assert await store.sweep(now + 3 * HOUR_S) == 5
    assert await store.get(young[0], 4) is None


@pytest.mark.parametrize("settings", ["file"], indirect=True)
async def test_a_folder_keeps_what_is_not_ours_and_loses_empty_hours(store, settings):
    folder = Path(unquote(urlsplit(settings.bridge_payload_url.get_secret_value()).path))
    foreign = ["2024/" + "a" * 10, "00000001/old.txt", "notes/1000000000-t-" + "0" * 30]
    for path in foreign:
        (folder / path).parent.mkdir()
        (folder / path).write_text("mine")
    others = sorted({part for path in foreign for part in path.split("/")})
    await store.put(new_key(1_000_000_000, shared=False), b"data")
    assert names_in(folder) == sorted(["00277778", *others])
    assert await store.sweep(time.time()) == 1
    assert names_in(folder) == others


@pytest.mark.parametrize("settings", ["file"], indirect=True)
async def test_what_a_killed_process_was_writing_goes_with_its_hour(store, settings):
    folder = Path(unquote(urlsplit(settings.bridge_payload_url.get_secret_value()).path))
    young = new_key(int(time.time()) + 2 * HOUR_S, shared=False)
    await store.put(young, b"data")
    hour, key = all_in(folder)
    part = f"{key}#1"  # as obstore's LocalStore calls it until it is whole
    (folder / hour / part).write_bytes(b"half of it")
    assert await store.sweep(time.time()) == 0
    assert all_in(folder) == [hour, key, part]
    assert await store.sweep(time.time() + 5 * HOUR_S) == 1
    assert all_in(folder) == []


@pytest.mark.parametrize("settings", ["redis"], indirect=True)
async def test_redis_lets_payloads_expire_by_itself(store, settings):
    key = new_key(int(time.time()) + 100, shared=True)
    await store.put(key, b"data")
    async with redis.asyncio.from_url(settings.bridge_payload_url.get_secret_value()) as client:
        assert 90 < await client.ttl(f"bridge:payload:{key}") <= 100
        await client.delete(f"bridge:payload:{key}")
    assert await store.sweep(time.time() + 10**6) == 0


@pytest.mark.parametrize("settings", ["redis"], indirect=True)
async def test_who_gives_up_sending_to_redis_leaves_nothing_there(payloads, redis):
    """What is in the socket's buffer comes there yet: after the deletion, if that does not wait."""
    others = await redis.keys("bridge:payload:*")
    sending = asyncio.create_task(payloads.put("input", tensors_of(x=np.ones(2**24))))
    async with asyncio.timeout(20):
        while not await largest_query(redis):
            await asyncio.sleep(0.001)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    async with asyncio.timeout(20):
        while await largest_query(redis):
            await asyncio.sleep(0.01)
        while set(await redis.keys("bridge:payload:*")) - set(others):
            await asyncio.sleep(0.01)


async def largest_query(redis):
    """Of what Redis has in part only, the bytes, without small ones."""
    sizes = [int(client["qbuf"]) for client in await redis.client_list()]
    return max(size if size > 2**20 else 0 for size in sizes)


@pytest.mark.parametrize("settings", ["redis"], indirect=True)
async def test_redis_is_not_sent_what_it_would_hang_up_on(store):
    class Large(bytes):
        def __len__(self):
            return 513 * 2**20

    with pytest.raises(errors.PayloadTooLargeError, match="at most 536,870,912 in one value"):
        await store.put(fresh_key(), Large())


@pytest.mark.parametrize("direction", ["put", "get", "discard"])
@pytest.mark.parametrize("scheme", ["s3", "redis"])
async def test_a_store_that_is_away_is_worth_another_try(scheme, direction, monkeypatch, caplog):
    url = {"s3": "s3://bucket", "redis": "redis://:hidden-word@127.0.0.1:1/0"}[scheme]
    settings = settings_of(
        monkeypatch,
        {
            "BRIDGE_PAYLOAD_URL": url,
            "BRIDGE_PAYLOAD_ENDPOINT": "http://127.0.0.1:1",
            "BRIDGE_PAYLOAD_ACCESS_KEY": "any",
            "BRIDGE_PAYLOAD_SECRET_KEY": "hidden-word",
        },
    )
    payloads = open_payloads(settings)
    stored = {"x": StoredTensor("INT8", (1,), Reference(fresh_key(), 1, "0" * 64))}
    if direction == "discard":
        payloads.discard([fresh_key()])
        await payloads.close()
        assert "1 payloads stay until they expire: cannot use the payload store" in caplog.text
        assert "hidden-word" not in caplog.text
        return
    transfer = {
        "put": lambda: payloads.put("input", tensors_of(x=np.ones(1))),
        "get": lambda: payloads.get("input", stored),
    }[direction]
    with pytest.raises(errors.PayloadStoreError, match="input 'x': cannot use") as caught:
        await transfer()
    assert caught.value.fate is errors.Fate.RETRY
    address = {"s3": "BRIDGE_PAYLOAD_ENDPOINT", "redis": "BRIDGE_PAYLOAD_URL"}[scheme]
    assert f"check {address}" in str(caught.value)
    assert "hidden-word" not in str(caught.value)
    await payloads.close()


async def test_a_bucket_that_is_not_there_is_the_stores_fault(s3_server, monkeypatch):
    variables = s3_server.variables | {"BRIDGE_PAYLOAD_URL": "s3://nobody"}
    store = open_store(settings_of(monkeypatch, variables))
    for call in (
        lambda: store.put(fresh_key(), b"x"),
        lambda: store.get(fresh_key(), 1),
        lambda: store.delete([fresh_key()]),
        lambda: store.sweep(time.time()),
    ):
        with pytest.raises(errors.PayloadStoreError, match="s3://nobody"):
            await call()


async def test_awss_own_variables_will_do(s3_server, monkeypatch):
    variables = {
        "BRIDGE_PAYLOAD_URL": f"s3://{s3_server.bucket}",
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
    }
    store = open_store(settings_of(monkeypatch, variables))
    key = fresh_key()
    await store.put(key, b"x")
    assert bytes(await store.get(key, 1)) == b"x"
    await store.delete([key])


async def test_a_store_that_hangs_is_given_up(state, monkeypatch):
    async with RedisServer(state) as server:
        variables = {"BRIDGE_PAYLOAD_URL": server.url, "BRIDGE_PAYLOAD_TIMEOUT_S": "0.3"}
        payloads = open_payloads(settings_of(monkeypatch, variables))
        async with redis.asyncio.from_url(server.url) as client:
            await client.client_pause(2000)
            with pytest.raises(errors.PayloadStoreError, match=r"longer than 0\.3 s"):
                await payloads.put("input", tensors_of(x=np.ones(1)))
        await payloads.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://host/x",
        "s3://",
        "file://host/path",
        "file:///",
        "/tmp/x",
        "redis:///0",
        "memory://",
        "x",
    ],
)
def test_a_url_that_names_no_store_is_refused_without_being_shown(url, monkeypatch):
    monkeypatch.setenv("BRIDGE_PAYLOAD_URL", url)
    with pytest.raises(ValidationError, match="must be file:///folder"):
        Settings()


def test_a_password_is_never_shown(monkeypatch):
    url = "rediss://user:hidden-word@host:6379/1"
    settings = settings_of(monkeypatch, {"BRIDGE_PAYLOAD_URL": url})
    assert settings.payload_shown == "rediss://host:6379/1"
    assert "hidden-word" not in repr(settings)


def test_no_url_no_store(monkeypatch):
    assert open_payloads(settings_of(monkeypatch, {"BRIDGE_PAYLOAD_URL": ""})) is None
    monkeypatch.delenv("BRIDGE_PAYLOAD_URL")
    assert open_payloads(Settings()) is None


def test_a_folder_that_cannot_be_is_a_settings_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    variables = {"BRIDGE_PAYLOAD_URL": (tmp_path / "file" / "store").as_uri()}
    with pytest.raises(errors.SettingsError, match="cannot use BRIDGE_PAYLOAD_URL"):
        open_payloads(settings_of(monkeypatch, variables))
