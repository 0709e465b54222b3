"""Secrets that are easy to find, failures of every part, and a look through all that was said.

With debug logging of everything, not of ours alone.
"""

import asyncio
import logging
import subprocess
import sys
import traceback
from urllib.parse import urlsplit

import numpy as np
import pytest

from bridge.client import BridgeClient
from bridge.errors import BridgeError, PayloadError, SettingsError
from bridge.payloads import open_payloads
from bridge.queues import build_broker, queue_depths
from bridge.results import RedisResults
from bridge.settings import Settings, load_settings
from bridge.triton_client import TritonClient

DATA = {"x": ("UINT8", (3,), b"123")}
MARK = "hidden"
"""All secrets hold it, and nothing else does."""
LOUD = (
    "import logging; logging.basicConfig(level=logging.DEBUG);"
    "from bridge.cli.app import main; main()"
)
COMMANDS = ["status", "status some-task", "models", "infer double", "worker inference"]


@pytest.fixture(params=["wrong", "away", "tls"])
def refused(request, environment, redis_door, certificates):
    """What each part refuses: by the password, as nobody is there, or by the certificate."""
    away = request.param == "away"
    redis_port, triton = (
        (1, "127.0.0.1:1") if away else (redis_door.port, environment["TRITON_URL"])
    )
    broken = {
        "RABBITMQ_PASSWORD": "hidden-rabbit",
        "REDIS_URL": f"rediss://bridge-worker:hidden-redis@127.0.0.1:{redis_port}/0",
        "BRIDGE_PAYLOAD_URL": f"rediss://me:hidden-payloads@127.0.0.1:{redis_port}/0",
        "BRIDGE_PAYLOAD_THRESHOLD_BYTES": "1",
        "TRITON_URL": triton,
        "TRITON_ADMIN_KEY": "hidden-triton",
    }
    if away:
        broken["RABBITMQ_PORT"] = "1"
    if request.param == "tls":
        for part in ("RABBITMQ", "REDIS", "TRITON"):
            broken |= certificates.variables(part, ca=certificates.other_ca)
    return {**environment, **broken}


@pytest.mark.parametrize("refused", ["wrong", "away"], indirect=True)
async def test_no_command_shows_a_secret(refused, tmp_path):
    async def said(command):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", LOUD, *command.split()),
            env=refused,
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate(b'{"x": [[1, 2, 3, 4]]}')
        # Without a right key, `models` lists what anybody may see.
        assert process.returncode == 1 or command == "models", output.decode()
        return output.decode()

    for text in await asyncio.gather(*map(said, COMMANDS)):
        assert "Traceback" not in text
        assert MARK not in text


async def test_no_error_and_no_log_of_a_client_holds_one(refused, settings_of, caplog):
    caplog.set_level(logging.DEBUG)
    settings = settings_of(refused)
    payloads, results = open_payloads(settings), RedisResults(settings)
    broker = build_broker(settings, "inference")

    async def enter():
        async with BridgeClient(settings):
            pass

    async with TritonClient.from_settings(settings) as triton:
        for fails in (
            enter,
            broker.startup,
            lambda: queue_depths(settings),
            lambda: payloads.put("input", DATA),
            lambda: triton.load("double"),
            triton.index,
        ):
            with pytest.raises(BridgeError) as caught:
                await fails()
            assert MARK not in "".join(traceback.format_exception(caught.value))
            assert MARK not in repr(caught.value)
    for it in (payloads.close(), results.shutdown(), broker.shutdown()):
        await it
    assert MARK not in f"{settings!r} {settings} {settings.payload_shown}"
    assert MARK not in caplog.text


S3 = {
    "BRIDGE_PAYLOAD_URL": "s3://bucket/prefix",
    "BRIDGE_PAYLOAD_ENDPOINT": "http://127.0.0.1:1",
    "BRIDGE_PAYLOAD_REGION": "us-east-1",
    "BRIDGE_PAYLOAD_ACCESS_KEY": "hidden-access",
    "BRIDGE_PAYLOAD_SECRET_KEY": "hidden-secret",
}


async def test_no_error_of_an_s3_store_holds_one(settings_of, caplog):
    caplog.set_level(logging.DEBUG)
    payloads = open_payloads(settings_of(S3))
    with pytest.raises(PayloadError) as caught:
        await payloads.put("input", DATA)
    await payloads.close()
    assert MARK not in "".join(traceback.format_exception(caught.value))
    assert MARK not in caplog.text


async def test_no_log_of_a_worker_and_no_result_holds_one(
    worker, environment, caller, settings_of, tmp_path, caplog
):
    """It is let in by secrets of RabbitMQ's and Redis's, and fails at the payload store."""
    caplog.set_level(logging.DEBUG)
    folder = (tmp_path / "store").as_uri()
    theirs = {"BRIDGE_PAYLOAD_URL": folder, "BRIDGE_PAYLOAD_THRESHOLD_BYTES": "1"}
    async with BridgeClient(settings_of(caller, theirs)) as client:
        with pytest.raises(PayloadError) as caught:
            await client.infer("double", {"x": np.ones((1, 4), np.float32)})
    log = worker.read_text()
    assert "DEBUG" in log
    assert "cannot use the payload store" in log
    secrets = [MARK]
    for part in (environment, caller):
        secrets += [part["RABBITMQ_PASSWORD"], urlsplit(part["REDIS_URL"]).password]
    for secret in secrets:
        assert secret not in log
        assert secret not in caplog.text
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://:hidden/redis@localhost:6379/0"),
        ("BRIDGE_PAYLOAD_URL", "ftp://me:hidden@localhost"),
        ("TRITON_URL", "hidden"),
        ("RABBITMQ_PORT", "hidden"),
    ],
)
def test_settings_that_cannot_be_used_are_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    if name != "TRITON_URL":  # an address is no secret, and shown
        assert MARK not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValueError, match=name.lower()) as plain:  # pydantic's own
        Settings()
    assert name == "TRITON_URL" or MARK not in str(plain.value)
