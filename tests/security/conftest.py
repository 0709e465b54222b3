"""Servers that speak TLS and let in only whom docs/security.md names.

The rights are read from that page, so that what it says is what is tested. RabbitMQ and Triton end
TLS themselves. Redis has a door of Python's before it, which does the same with the same OpenSSL:
the embedded `redis-server` has no TLS, and a test must not depend on which other one is installed.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest
import trustme

from bridge.embedded.ports import free_ports
from bridge.embedded.probes import http_ok, port_open
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.embedded.triton import TritonServer
from bridge.settings import Settings

PAGE = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text()
WORKER, CLIENT = "bridge-worker", "bridge-client"
PRODUCER = "bridge-producer"


class Certificates:
    """One authority, certificates of ours, and those of a stranger; as files."""

    def __init__(self, folder: Path):
        self._folder = folder
        ours, strangers = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = folder / "ca.pem", folder / "other-ca.pem"
        ours.cert_pem.write_to_path(self.ca)
        strangers.cert_pem.write_to_path(self.other_ca)
        self.server = self._pair("server", ours.issue_cert("localhost", "127.0.0.1"))
        self.elsewhere = self._pair("elsewhere", ours.issue_cert("elsewhere.test"))
        self.client = self._pair("client", ours.issue_cert("client.test"))
        self.stranger = self._pair("stranger", strangers.issue_cert("client.test"))

    def _pair(self, name, issued):
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return cert, key

    def variables(self, part, *, ca=True, pair=True):
        """The variables for a part; True is ours, None is unset."""
        ca = self.ca if ca is True else ca
        cert, key = self.client if pair is True else (pair or (None, None))
        files = {"CA": ca, "CERT": cert, "KEY": key}
        return {f"{part}_{kind}_FILE": str(path or "") for kind, path in files.items()}


class TlsDoor:
    """Ends TLS before a server that has none, and asks for a client certificate."""

    def __init__(self, port: int, pair, client_ca: Path | None):
        self._target = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        self._context.load_cert_chain(*pair)
        self._context.set_alpn_protocols(["h2"])  # gRPC insists on it, others do not ask
        if client_ca is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._open: set[asyncio.Task] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


class SecureRabbitMQ(RabbitMQServer):
    """Asks for a client certificate on `tls_port`; has the users of docs/security.md."""

    def __init__(self, state, certificates):
        super().__init__(state)
        self.tls_port = free_ports(1)[0]
        self.passwords = {user: secrets.token_urlsafe(16) for user in (WORKER, PRODUCER)}
        self._certificates = certificates

    def _command(self):
        command = super()._command()
        cert, key = self._certificates.server
        with (self.room / "rabbitmq.conf").open("a") as config:
            config.write(
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {self._certificates.ca}\n"
                f"ssl_options.certfile = {cert}\n"
                f"ssl_options.keyfile = {key}\n"
                "ssl_options.verify = verify_peer\n"
                "ssl_options.fail_if_no_peer_cert = true\n"
                f"load_definitions = {self.room / 'definitions.json'}\n"
            )
        (self.room / "definitions.json").write_text(json.dumps(self._definitions()))
        return command

    def _definitions(self):
        """What the page's `rabbitmqctl` lines do, as a file that is read at the start."""
        users = {self.username: self.password, **self.passwords}
        all_rights = {"configure": ".*", "write": ".*", "read": ".*"}
        permissions = [{"user": self.username, "vhost": "/", **all_rights}]
        topics = []
        for line in re.findall(r"^rabbitmqctl (set_\S*permissions .*)$", PAGE, re.MULTILINE):
            command, user, *rest = shlex.split(line)
            if command == "set_permissions":
                rights = dict(zip(("configure", "write", "read"), rest, strict=True))
                permissions.append({"user": user, "vhost": "/", **rights})
            else:
                rights = dict(zip(("exchange", "write", "read"), rest, strict=True))
                topics.append({"user": user, "vhost": "/", **rights})
        return {
            "users": [
                {"name": name, "password": password, "tags": ""} for name, password in users.items()
            ],
            "vhosts": [{"name": "/"}],
            "permissions": permissions,
            "topic_permissions": topics,
        }


class RedisWithUsers(RedisServer):
    """Has the users of docs/security.md, and one without the right to channels."""

    def __init__(self, state):
        super().__init__(state)
        users = (WORKER, "bridge-training", CLIENT, "no-channels")
        self.passwords = {user: secrets.token_urlsafe(16) for user in users}

    def _command(self):
        command = super()._command()
        rules = dict(re.findall(r"^ACL SETUSER (\S+) (.*)$", PAGE, re.MULTILINE))
        rules["no-channels"] = rules[CLIENT].replace("&bridge:reply:*", "")
        with (self.room / "redis.conf").open("a") as config:
            for user, password in self.passwords.items():
                rule = re.sub(r">\S+", f">{password}", rules[user])
                config.write(f"user {user} {rule}\n")
        return command

    def url_of(self, user, port=None, *, host="127.0.0.1"):
        scheme = "redis" if port is None else "rediss"
        password = quote(self.passwords[user], safe="")
        return f"{scheme}://{user}:{password}@{host}:{port or self.port}/0"


class SecureTriton(TritonServer):
    """Asks for a client certificate on its gRPC port."""

    def __init__(self, state, repository, certificates):
        super().__init__(state, repository, models=["double", "wide"])
        self._certificates = certificates

    def _command(self):
        cert, key = self._certificates.server
        return [
            *super()._command(),
            "--grpc-use-ssl=1",
            "--grpc-use-ssl-mutual=1",
            f"--grpc-server-cert={cert}",
            f"--grpc-server-key={key}",
            f"--grpc-root-cert={self._certificates.ca}",
        ]

    async def _answers(self):
        return await http_ok("127.0.0.1", self.http_port, "/v2/health/ready") and (
            await port_open("127.0.0.1", self.grpc_port)
        )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_door():
    return TlsDoor


@pytest.fixture(scope="session")
async def secure_rabbitmq(state, certificates) -> AsyncIterator[SecureRabbitMQ]:
    async with SecureRabbitMQ(state, certificates) as server:
        yield server


@pytest.fixture(scope="session")
async def users_redis(state) -> AsyncIterator[RedisWithUsers]:
    async with RedisWithUsers(state) as server:
        yield server


@pytest.fixture(scope="session")
async def redis_door(users_redis, certificates) -> AsyncIterator[TlsDoor]:
    async with TlsDoor(users_redis.port, certificates.server, certificates.ca) as door:
        yield door


@pytest.fixture(scope="session")
async def secure_triton(state, model_repository, certificates) -> AsyncIterator[SecureTriton]:
    async with SecureTriton(state, model_repository, certificates) as server:
        yield server


@pytest.fixture(scope="session")
def environment(secure_rabbitmq, users_redis, redis_door, secure_triton, certificates):
    """Variables of a worker behind TLS everywhere, with no more rights than it needs."""
    return {
        **{k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}},
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": str(secure_rabbitmq.tls_port),
        "RABBITMQ_TLS": "true",
        "RABBITMQ_USERNAME": WORKER,
        "RABBITMQ_PASSWORD": secure_rabbitmq.passwords[WORKER],
        "REDIS_URL": users_redis.url_of(WORKER, redis_door.port),
        "TRITON_URL": secure_triton.address,
        "TRITON_TLS": "true",
        **{
            name: value
            for part in ("RABBITMQ", "REDIS", "TRITON")
            for name, value in certificates.variables(part).items()
        },
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="session")
def caller(environment, secure_rabbitmq, users_redis, redis_door):
    """Variables of a producer: its own users, and nothing of Triton's."""
    mine = {name: value for name, value in environment.items() if not name.startswith("TRITON")}
    return mine | {
        "RABBITMQ_USERNAME": PRODUCER,
        "RABBITMQ_PASSWORD": secure_rabbitmq.passwords[PRODUCER],
        "REDIS_URL": users_redis.url_of(CLIENT, redis_door.port),
    }


@pytest.fixture(scope="session")
def settings_of():
    """Settings of some variables, and of no others."""

    def make(*parts, **variables):
        with pytest.MonkeyPatch.context() as patch:
            for name in Settings.model_fields:
                patch.delenv(name.upper(), raising=False)
            for part in (*parts, variables):
                for name, value in part.items():
                    patch.setenv(name, value)
            return Settings()

    return make


@pytest.fixture(scope="session")
async def worker(environment, redis_door, tmp_path_factory) -> AsyncIterator[Path]:
    """The log of a worker that RabbitMQ, Redis and Triton let in, and the payload store does not.

    It logs all that it can, its libraries' debugging included.
    """
    folder = tmp_path_factory.mktemp("worker")
    path = folder / "worker.log"
    command = "-P -m taskiq worker bridge.broker:broker bridge.tasks.inference --workers 1"
    refused = {
        "BRIDGE_PAYLOAD_URL": f"rediss://me:hidden-payloads@127.0.0.1:{redis_door.port}/0",
        "TRITON_ADMIN_KEY": "hidden-triton",
    }
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command.split(), "--log-level", "DEBUG"),
            env=environment | refused,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "Listening started." not in path.read_text():
            assert process.returncode is None, path.read_text()
            assert time.monotonic() < deadline, path.read_text()
            await asyncio.sleep(0.1)
        yield path
        process.terminate()
        async with asyncio.timeout(40):
            await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
