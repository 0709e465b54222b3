"""Puts ready-made messages into RabbitMQ, quickly, each confirmed.

All competitors' messages are published by this, outside of what is timed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import aiormq
from pamqp.commands import Basic

_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Mail:
    """One task, encoded as its competitor's own producer would."""

    index: int
    """Which row it carries."""
    key: str
    """Under which its result will lie in Redis."""
    body: bytes
    content_type: str
    headers: dict[str, Any] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)


class Post:
    """`async with Post(url) as post: await post.send(queue, mails)`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._channel: Any = None

    async def __aenter__(self) -> Self:
        self._connection = await aiormq.connect(self._url)
        self._channel = await self._connection.channel(publisher_confirms=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    @property
    def server_version(self) -> str:
        """RabbitMQ's, as it says itself."""
        version = self._connection.server_properties["version"]
        return version.decode() if isinstance(version, bytes) else str(version)

    async def send(self, queue: str, mails: Sequence[Mail]) -> None:
        """Publish persistent messages; returns when all are confirmed."""
        for start in range(0, len(mails), _AT_A_TIME):
            await asyncio.gather(
                *(self._publish(queue, mail) for mail in mails[start : start + _AT_A_TIME])
            )

    async def waiting(self, queue: str) -> int:
        """Messages that are ready for delivery."""
        answer = await self._channel.queue_declare(queue, passive=True)
        return int(answer.message_count)

    async def purge(self, queue: str) -> None:
        """Empty a queue."""
        await self._channel.queue_purge(queue)

    async def _publish(self, queue: str, mail: Mail) -> None:
        properties = Basic.Properties(
            content_type=mail.content_type,
            headers=mail.headers,
            delivery_mode=2,
            **mail.properties,
        )
        await self._channel.basic_publish(
            mail.body, exchange="", routing_key=queue, properties=properties
        )
