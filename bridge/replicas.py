"""Which of several equal servers takes the next request. Pure asyncio; knows no protocol.

Enters: servers, and how to ask one whether it is well. Leaves: the one with the least in hand,
among those that are well. One that failed is asked in the background until it is well again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from bridge.background import end

Server = TypeVar("Server")

_ASK_EVERY_S = 0.5


class Replicas(Generic[Server]):
    """Servers in and out of rotation."""

    def __init__(
        self, servers: Collection[Server], well: Callable[[Server], Awaitable[bool]]
    ) -> None:
        """All begin in rotation.

        Args:
            servers: at least one.
            well: asks one whether it can serve; must not raise.
        """
        self._servers = list(servers)
        self._in_hand = dict.fromkeys(range(len(self._servers)), 0)
        self._well = well
        self._asking: dict[int, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers)

    def candidates(self) -> list[Server]:
        """Every server, in the order in which a request should try them: the least busy first.

        Those out of rotation come last, not never: a request has nowhere better to go when all
        are out, and finds out first that one is back.
        """
        order = sorted(self._in_hand, key=lambda i: (i in self._asking, self._in_hand[i], i))
        return [self._servers[i] for i in order]

    @contextmanager
    def busy(self, server: Server) -> Iterator[None]:
        """Count one request in hand at `server`."""
        index = self._servers.index(server)
        self._in_hand[index] += 1
        try:
            yield
        finally:
            self._in_hand[index] -= 1

    def take_out(self, server: Server) -> None:
        """Take a server that failed out of rotation until it says that it is well."""
        index = self._servers.index(server)
        if len(self._servers) > 1 and index not in self._asking:
            self._asking[index] = asyncio.create_task(self._ask(index))

    async def close(self) -> None:
        """Stop asking."""
        await end(*self._asking.values())

    async def _ask(self, index: int) -> None:
        try:
            while True:
                await asyncio.sleep(_ASK_EVERY_S)
                if await self._well(self._servers[index]):
                    return
        finally:
            self._asking.pop(index, None)
