"""RabbitMQ's management API, where its plugin runs: what AMQP does not tell.

Enters: settings. Leaves: rates, arguments and policies of our queues, and how its nodes are. It is
asked only; a RabbitMQ without it is as good.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from bridge.errors import QueueError
from bridge.fetch import fetch
from bridge.settings import Settings

_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
_REFUSED = frozenset({_UNAUTHORIZED, 403})


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What the management API says of one queue. It looks every five seconds by default."""

    arguments: dict[str, Any]
    policy: dict[str, Any]
    """What a policy sets of it."""
    unacknowledged: int
    in_per_s: float
    """Messages published to it."""
    out_per_s: float
    """Messages acknowledged."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """What it says of one node; fields that the API leaves out are None."""

    name: str
    alarms: list[str]
    """memory or disk: publishers are blocked."""
    descriptors: int | None
    """How many files and sockets it may have."""
    config_files: list[str] = field(default_factory=list)
    """Paths on the node's own machine."""


class Management:
    """The API of the settings' RabbitMQ."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is asked yet."""
        self.url = settings.management_url
        self._vhost = quote(settings.rabbitmq_vhost, safe="")
        self._user = (settings.rabbitmq_username, settings.rabbitmq_password.get_secret_value())
        self._files = settings.tls_files("rabbitmq")

    async def queue(self, name: str) -> QueueFigures | None:
        """One queue; None: it does not exist.

        Raises:
            QueueError: the API cannot be used.
        """
        found = await self._get(f"/api/queues/{self._vhost}/{quote(name, safe='')}")
        if found is None:
            return None
        stats = found.get("message_stats") or {}
        return QueueFigures(
            found.get("arguments") or {},
            found.get("effective_policy_definition") or {},
            found.get("messages_unacknowledged") or 0,
            _rate(stats, "publish"),
            _rate(stats, "ack"),
        )

    async def nodes(self) -> list[NodeFigures]:
        """Each node of the cluster.

        Raises:
            QueueError: the API cannot be used, or the user may not see nodes.
        """
        return [
            NodeFigures(
                node["name"],
                [kind for kind in ("mem", "disk_free") if node.get(f"{kind}_alarm")],
                node.get("fd_total"),
                node.get("config_files") or [],
            )
            for node in await self._get("/api/nodes") or ()
        ]

    async def _get(self, path: str) -> Any:
        try:
            status, body = await fetch(self.url + path, user=self._user, files=self._files)
        except OSError as error:
            raise QueueError(
                f"no management API of RabbitMQ at {self.url} ({error}): enable its plugin, or set "
                "RABBITMQ_MANAGEMENT_URL"
            ) from None
        if status in _REFUSED:
            raise QueueError(
                f"RabbitMQ's management API at {self.url} refuses the user ({status}): check "
                "RABBITMQ_USERNAME and RABBITMQ_PASSWORD, and give it the tag `monitoring`"
            )
        if status == _NOT_FOUND:
            return None
        try:
            if status == _OK:
                return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
        raise QueueError(
            f"what answers at {self.url} is not RabbitMQ's management API (HTTP {status}): set "
            "RABBITMQ_MANAGEMENT_URL"
        )


def _rate(stats: dict[str, Any], what: str) -> float:
    return float((stats.get(f"{what}_details") or {}).get("rate") or 0.0)
