"""A private Taskiq Dashboard: the server of the `taskiq-dashboard` wheel, on SQLite."""

import importlib.util
import secrets
import sys

from bridge.embedded.ports import free_ports
from bridge.embedded.probes import http_ok
from bridge.embedded.process import clean_environment
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError


class DashboardServer(Server):
    """The dashboard on 127.0.0.1, with a token that whoever tells it of tasks must have.

    Its pages ask for none: everybody on this machine can look at them.

    Args:
        state: where its database lives; it vanishes with that.
    """

    name = "dashboard"
    remedy = "If the port was taken meanwhile, try again."

    def __init__(self, state: StateFolder) -> None:
        super().__init__(state)
        [self.port] = free_ports(1)
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """For browsers, and for TASKIQ_DASHBOARD_URL."""
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        for needed in ("taskiq_dashboard", "granian"):
            if importlib.util.find_spec(needed) is None:
                raise RuntimeStartError(
                    f"no Taskiq Dashboard is installed ({needed} is missing): pip install "
                    "'taskiq-triton-bridge[dashboard]', or set TASKIQ_DASHBOARD_URL to one that "
                    "runs"
                )
        return [sys.executable, "-P", "-m", "taskiq_dashboard.api"]

    def _environment(self) -> dict[str, str]:
        return {
            **clean_environment(),
            "TASKIQ_DASHBOARD__API__ADDRESS": "127.0.0.1",
            "TASKIQ_DASHBOARD__API__PORT": str(self.port),
            "TASKIQ_DASHBOARD__API__TOKEN": self.token,
            "TASKIQ_DASHBOARD__STORAGE_TYPE": "sqlite",
            "TASKIQ_DASHBOARD__SQLITE__FILE_PATH": str(self.room / "tasks.db"),
        }

    async def _answers(self) -> bool:
        return await http_ok("127.0.0.1", self.port, "/readiness")
