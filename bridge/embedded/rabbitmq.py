"""A private RabbitMQ node, made of an installed `rabbitmq-server`."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from bridge.embedded.ports import free_ports
from bridge.embedded.probes import amqp_answers, port_open
from bridge.embedded.process import Process, clean_environment
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError

_USER = "mlbridge"
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
log.file = false
log.console = true
log.console.level = info
# Half a gigabyte by default: too much for a temporary folder.
raft.wal_max_size_bytes = 67108864
"""
_MISSING = (
    "no rabbitmq-server is installed: apt-get install rabbitmq-server (Debian, Ubuntu) or "
    "https://www.rabbitmq.com/docs/download; or set RABBITMQ_HOST to one that runs, or "
    "`--queue redis-streams` to do without"
)


class RabbitMQServer(Server):
    """A node of its own: name, cookie, data, plugins and name server are private.

    Everything listens on loopback only, Erlang's distribution included. It runs as any user.
    `epmd`, Erlang's name server, is started here in the foreground: left to itself the node
    would start one as a daemon, which stays behind.

    Args:
        state: where its data lives.
        port: for AMQP; a free one by default.
        consumer_timeout_ms: how long a delivery may stay unacknowledged; RabbitMQ's default
            is 30 minutes.
        management: run the management plugin, on a free port.
        prometheus: run the plugin that Prometheus reads, on a free port.
    """

    name = "rabbitmq"
    start_timeout_s = 120.0
    stop_timeout_s = 20.0
    remedy = "If a port was taken meanwhile, try again; else read what it says."
    username = _USER

    def __init__(
        self,
        state: StateFolder,
        *,
        port: int | None = None,
        consumer_timeout_ms: int | None = None,
        management: bool = False,
        prometheus: bool = False,
    ) -> None:
        super().__init__(state)
        ports = free_ports(5)
        self.port = port or ports[0]
        self._distribution_port, self._epmd_port = ports[1:3]
        self.management_port = ports[3] if management else None
        self.prometheus_port = ports[4] if prometheus else None
        self.password = secrets.token_urlsafe(24)
        self._consumer_timeout_ms = consumer_timeout_ms
        self._epmd = Process(state, self.room, "epmd")

    @property
    def address(self) -> str:
        """`host:port`, for showing."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The AMQP URL with the password: for connecting, never for showing."""
        return f"amqp://{_USER}:{self.password}@{self.address}/"

    @property
    def management_url(self) -> str | None:
        """The management plugin's HTTP address, without the password; None if it is off."""
        return None if self.management_port is None else f"http://127.0.0.1:{self.management_port}"

    def _command(self) -> list[str]:
        program = find_rabbitmq_server()
        config = _CONFIG.format(port=self.port, user=_USER, password=self.password)
        if self._consumer_timeout_ms is not None:
            config += f"consumer_timeout = {self._consumer_timeout_ms}\n"
        if self.management_port is not None:
            config += (
                f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management_port}\n"
            )
        if self.prometheus_port is not None:
            config += (
                f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {self.prometheus_port}\n"
            )
        (self.room / "rabbitmq.conf").write_text(config)
        ports = {
            "rabbitmq_management": self.management_port,
            "rabbitmq_prometheus": self.prometheus_port,
        }
        plugins = ",".join(name for name, port in ports.items() if port is not None)
        (self.room / "enabled_plugins").write_text(f"[{plugins}].\n")
        for folder in ("home", "mnesia", "log", "config"):
            (self.room / folder).mkdir(exist_ok=True)
        return [str(program)]

    def _environment(self) -> dict[str, str]:
        room = self.room
        return clean_environment() | {
            "HOME": str(room / "home"),  # Erlang makes its cookie there
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"{self._state.name}-{room.name}@localhost",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,  # the machine's own settings stay out
            "RABBITMQ_CONFIG_FILE": str(room / "rabbitmq"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(room / "config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(room / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(room / "mnesia"),
            "RABBITMQ_LOG_BASE": str(room / "log"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
            ),
            # Makes the start script become the server, instead of a shell that waits for it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    async def _before_start(self) -> None:
        if self._epmd.running:
            return
        epmd = shutil.which("epmd")
        if epmd is None:
            raise RuntimeStartError(f"Erlang's epmd is not on PATH; {_MISSING}")
        command = [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        await self._epmd.start(command, clean_environment())
        await self._epmd.wait_ready(
            lambda: port_open("127.0.0.1", self._epmd_port), timeout_s=10, remedy=self.remedy
        )

    async def _after_end(self) -> None:
        await self._epmd.kill()

    async def _answers(self) -> bool:
        if not await amqp_answers("127.0.0.1", self.port):
            return False
        for port in (self.management_port, self.prometheus_port):
            if port is not None and not await port_open("127.0.0.1", port):
                return False
        return True


def find_rabbitmq_server() -> Path:
    """The start script itself, beside its `rabbitmq-env`.

    Debian's wrapper in /usr/sbin is passed over: it changes to the user `rabbitmq`.

    Raises:
        RuntimeStartError: there is none; says what to install.
    """
    for script in _candidates():
        if script.is_file() and (script.parent / "rabbitmq-env").is_file():
            return script
    raise RuntimeStartError(_MISSING)


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None:
        yield Path(on_path).resolve().with_name("rabbitmq-server")
    yield Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    yield from sorted(Path("/usr/lib/rabbitmq/lib").glob("*/sbin/rabbitmq-server"), reverse=True)
    yield from sorted(Path("/opt").glob("rabbitmq*/sbin/rabbitmq-server"), reverse=True)
