"""Checkpoints in a folder and in S3: whole or not at all, the newest token first."""

import asyncio
import json
import os
import time
import uuid
from pathlib import Path

import pytest
from pydantic import ValidationError

from bridge.embedded.ports import free_ports
from bridge.errors import CheckpointError, LeaseLostError, SettingsError
from bridge.settings import Settings, load_settings
from bridge.training import checkpoint_bucket
from bridge.training.checkpoints import Checkpoints, clean, digest, room
from bridge.training.places import open_checkpoint_store, open_work_root

TASK = "../a task: of anybody\n"
HOUR_S = 3600


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """Variables for a prefix of its own in a bucket."""
    for name, value in s3_server.variables.items():
        if name != "BRIDGE_PAYLOAD_URL":
            monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/check/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("bucket")
    return str(tmp_path / "root")


@pytest.fixture
def store(root):
    return open_checkpoint_store(Settings(checkpoint_root=root))


@pytest.fixture
def checkpoints(store):
    return Checkpoints(store, TASK, "request")


@pytest.fixture
def keep(checkpoints, tmp_path):
    async def keep(token, step, content=b"state", of=checkpoints):
        file = tmp_path / "work.ckpt"
        file.write_bytes(content)
        checkpoint = await of.keep(token, file, {"step": step, "sha256": digest(file)})
        assert not file.exists()
        return checkpoint

    return keep


async def names(store):
    return sorted(entry.name for entry in await store.entries(room(TASK)))


async def test_the_newest_token_and_step_come_first_and_two_are_kept(
    checkpoints, store, keep, tmp_path
):
    assert await checkpoints.newest(tmp_path) is None
    assert await checkpoints.floor() == 0
    assert await store.jobs() == {}
    for token, step in ((1, 10), (1, 200), (2, 150), (2, 160)):
        await keep(token, step, f"state {step}".encode())
    # Another machine, with nothing but the store.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    newest, path = await checkpoints.newest(elsewhere)
    assert (newest.token, newest.facts["step"]) == (2, 160)
    assert path.read_bytes() == b"state 160"
    assert newest.facts["saved_at"] <= time.time()
    assert await names(store) == [
        f"0000000002-000000000{step}.{kind}" for step in (150, 160) for kind in ("ckpt", "json")
    ]
    with pytest.raises(LeaseLostError):
        await checkpoints.keep(1, path, {"step": 999})
    assert path.exists()
    assert (await checkpoints.newest(elsewhere))[0].token == 2
    await checkpoints.drop()
    assert await names(store) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no facts", "strange facts"])
async def test_a_damaged_one_is_passed_over(checkpoints, store, keep, tmp_path, damage):
    await keep(1, 10, b"first")
    await keep(1, 20, b"second")
    state, facts = (f"0000000001-000000000020.{kind}" for kind in ("ckpt", "json"))
    match damage:
        case "cut":
            await store.write(room(TASK), state, b"sec")
        case "changed":
            await store.write(room(TASK), state, b"secomd")
        case "gone":
            await store.delete(room(TASK), [state])
        case "no facts":
            await store.delete(room(TASK), [facts])
        case "strange facts":
            await store.write(room(TASK), facts, json.dumps(["what"]).encode())
    newest, path = await checkpoints.newest(tmp_path)
    assert newest.facts["step"] == 10
    assert path.read_bytes() == b"first"


async def test_another_request_has_none(store, keep, tmp_path):
    await keep(1, 10)
    other = Checkpoints(store, TASK, "another")
    assert await other.newest(tmp_path) is None
    assert await other.floor() == 1
    assert list(await store.jobs()) == [room(TASK)]


async def test_who_is_overtaken_while_uploading_leaves_nothing(
    checkpoints, store, keep, monkeypatch
):
    await keep(1, 10)
    put = type(store).put

    async def overtaken(self, job, name, file):
        await put(self, job, name, file)
        await self.write(job, "0000000007-000000000005.json", b"{}")

    monkeypatch.setattr(type(store), "put", overtaken)
    with pytest.raises(LeaseLostError):
        await keep(1, 20)
    assert "0000000001-000000000020.ckpt" not in await names(store)
    assert await checkpoints.floor() == 7


async def test_what_a_crash_left_half_written_is_never_taken_and_goes(
    checkpoints, store, keep, tmp_path
):
    await keep(1, 10)
    await store.write(room(TASK), "0000000001-000000000020.ckpt", b"whole, but not told of")
    assert (await checkpoints.newest(tmp_path))[0].facts["step"] == 10
    await keep(2, 15)
    assert [name for name in await names(store) if "020" in name] == []


async def test_one_of_several_pieces_is_the_same_afterwards(checkpoints, keep, tmp_path):
    content = os.urandom(2**20) * 70 + b"end"
    await keep(1, 1, content)
    found = await checkpoints.newest(tmp_path)
    assert found is not None
    assert found[1].read_bytes() == content


async def test_logs_are_bounded_and_old_rooms_go(checkpoints, store, keep, tmp_path, monkeypatch):
    assert await checkpoints.read_log() is None
    log = tmp_path / "child.log"
    log.write_bytes(b"x" * 6_000_000)
    for number in range(3):
        await checkpoints.add_log(f"slice {number}", log)
    text = await checkpoints.read_log()
    assert len(text) <= 10 * 2**20 + 100
    assert text.startswith(b"---- slice 0\nxxx")
    assert b"---- slice 1\n" in text
    await keep(1, 10)
    await clean(store, HOUR_S)
    assert await checkpoints.floor() == 1

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * HOUR_S)  # two hours on
    other = Checkpoints(store, "other", "request")
    await store.write(room("other"), "paused", b"")
    await clean(store, 3 * HOUR_S)
    await clean(store, HOUR_S, {room(TASK), room("other")})
    assert await checkpoints.floor() == 1
    await clean(store, HOUR_S, {room("other")})
    assert await store.jobs() == {} or list(await store.jobs()) == [room("other")]
    assert await other.floor() == 0


async def test_a_touched_room_is_young_again(checkpoints, store, keep, monkeypatch):
    await keep(1, 10)
    before = (await store.jobs())[room(TASK)]
    await checkpoints.touch(HOUR_S)
    assert "paused" not in await names(store)  # it is young: nothing to write
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + HOUR_S / 2)
    await checkpoints.touch(HOUR_S)
    assert "paused" in await names(store)
    assert (await store.jobs())[room(TASK)] >= before
    assert await checkpoints.floor() == 1


async def test_a_folder_on_another_disk_is_copied_to(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINT_ROOT", (tmp_path / "a b").as_uri())
    settings = load_settings()
    assert settings.checkpoint_root == tmp_path / "a b"
    store = open_checkpoint_store(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.replace", _other_disk(tmp_path))
        file = tmp_path / "file"
        file.write_bytes(b"content")
        await store.put("job", "name", file)
    assert [path.name for path in (tmp_path / "a b" / "jobs" / "job").iterdir()] == ["name"]
    assert (await store.fetch("job", "name", tmp_path)).read_bytes() == b"content"


def _other_disk(here):
    replace = Path.replace

    def across(self, target):
        if self.parent == here:
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    return across


async def test_a_store_that_fails_is_told_with_the_remedy_and_without_secrets(
    bucket, monkeypatch, tmp_path
):
    monkeypatch.setattr(checkpoint_bucket, "RETRIES", 1)
    monkeypatch.setenv("CHECKPOINT_ROOT", "s3://nobodys-bucket/x")
    checkpoints = Checkpoints(open_checkpoint_store(load_settings()), TASK, "request")
    file = tmp_path / "file"
    file.write_bytes(b"state")
    for call in (
        checkpoints.floor(),
        checkpoints.newest(tmp_path),
        checkpoints.read_log(),
        checkpoints.keep(1, file, {"step": 1}),
    ):
        with pytest.raises(CheckpointError, match=r"s3://nobodys-bucket/x .* check CHECKPOINT_RO"):
            await call
    assert file.exists()
    await checkpoints.drop()  # the model is live: no reason to fail
    await checkpoints.add_log("slice 1", file)

    monkeypatch.setenv("CHECKPOINT_ROOT", bucket)
    monkeypatch.setenv("BRIDGE_PAYLOAD_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    away = Checkpoints(open_checkpoint_store(load_settings()), TASK, "request")
    with pytest.raises(CheckpointError, match="BRIDGE_PAYLOAD_ENDPOINT, _REGION") as raised:
        await away.newest(tmp_path)
    assert "not-a-secret" not in str(raised.value)


async def test_what_a_server_says_is_masked(bucket, monkeypatch):
    """Some tell their caller's keys to whoever reads their errors."""
    body = b"<Error><Code>AccessDenied</Code><Message>no not-a-secret</Message></Error>"

    async def refuse(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("BRIDGE_PAYLOAD_ENDPOINT", f"http://127.0.0.1:{port}")
        store = open_checkpoint_store(Settings(checkpoint_root=bucket))
        with pytest.raises(CheckpointError, match=r"no \*\*\*<") as raised:
            await store.entries("job")
    assert "not-a-secret" not in str(raised.value)


def test_a_place_that_cannot_be_is_refused(monkeypatch, tmp_path):
    for url in (
        "redis://localhost/0",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?secret=1",
        "s3:///x",
        "file://host/x",
        "https://bucket/x",
    ):
        monkeypatch.setenv("CHECKPOINT_ROOT", url)
        with pytest.raises(SettingsError, match=r"CHECKPOINT_ROOT.*: .* s3://bucket/p") as raised:
            load_settings()
        assert "secret@" not in str(raised.value)
    with pytest.raises(ValidationError):
        Settings(checkpoint_root=5)


@pytest.mark.parametrize("name", ["DATASET_ROOT", "MODEL_REPOSITORY", "BRIDGE_WORK_ROOT"])
def test_what_must_be_a_folder_is_no_bucket(monkeypatch, name):
    """It would be a folder named `s3:`, in silence."""
    monkeypatch.setenv(name, "s3://bucket/x")
    with pytest.raises(SettingsError, match=f"{name}.* must be a folder"):
        load_settings()
    monkeypatch.setenv(name, "file:///a%20b")
    assert getattr(load_settings(), name.lower()) == Path("/a b")


def test_where_training_processes_work(tmp_path, monkeypatch):
    assert open_work_root(Settings(checkpoint_root=tmp_path / "c")) == tmp_path / "c"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings(checkpoint_root="s3://bucket/x")
    folder = open_work_root(settings)
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    (tmp_path / f"taskiq-triton-bridge-{os.getuid()}").mkdir()
    with pytest.raises(CheckpointError, match="is another user's; set BRIDGE_WORK_ROOT"):
        open_work_root(settings)
    own = Settings(checkpoint_root="s3://bucket/x", bridge_work_root=tmp_path / "own")
    assert open_work_root(own) == tmp_path / "own"
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the work folder"):
        open_work_root(Settings(bridge_work_root=tmp_path / "file" / "x"))
