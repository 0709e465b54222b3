"""A TCP proxy that can be cut, slowed and deafened.

Enters: connections to its port. Leaves: the same bytes at the upstream's port, unless something is
wrong with the link. One for each pair of parts, so that each can break alone. Must not know what
the bytes mean.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from bridge.embedded.ports import free_ports

_HOST = "127.0.0.1"
_CHUNK = 65_536


class _Pipe:
    """One connection through the link."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        """Towards the client."""
        self.far = far
        self.dead = asyncio.Event()
        """Its far end is gone, and its near end has not been told."""

    def abort(self) -> None:
        """Reset both ends."""
        for writer in (self.near, self.far):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """As the kernel of a machine that restarted would: not by an orderly end."""
    if not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class Link:
    """One link on a port of its own; `async with`."""

    def __init__(self, name: str, upstream_port: int) -> None:
        """Nothing listens before the block begins.

        Args:
            name: as faults and reports call it.
            upstream_port: on this machine; nothing need listen there.
        """
        self.name = name
        self.port = free_ports(1)[0]
        self.accepted = 0
        """Connections so far."""
        self._upstream_port = upstream_port
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._delay_s = 0.0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._deafen()
        self._abort_all()

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return len(self._pipes)

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Connections are reset, and new ones refused."""
        await self._deafen()
        self._abort_all()
        try:
            yield
        finally:
            await self._listen()

    @asynccontextmanager
    async def delayed(self, seconds: float) -> AsyncIterator[None]:
        """Each chunk waits in each direction before it goes on."""
        self._delay_s = seconds
        try:
            yield
        finally:
            self._delay_s = 0.0

    @asynccontextmanager
    async def blackholed(self) -> AsyncIterator[None]:
        """Nothing passes, nobody is told; afterwards what was held flows, as TCP sends it again."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @asynccontextmanager
    async def half_open(self) -> AsyncIterator[None]:
        """The servers see their connections end; the clients hear nothing until the block ends.

        New connections work. At the end the old ones are reset, as a kernel does that has sent the
        same bytes often enough.
        """
        broken = list(self._pipes)
        for pipe in broken:
            pipe.dead.set()
            _reset(pipe.far)
        try:
            yield
        finally:
            for pipe in broken:
                pipe.abort()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, _HOST, self.port, reuse_address=True, limit=_CHUNK
        )

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)  # the socket closes with the next turn

    def _abort_all(self) -> None:
        for pipe in list(self._pipes):
            pipe.abort()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._flows.wait()
        try:
            far_reader, far = await asyncio.open_connection(
                _HOST, self._upstream_port, limit=_CHUNK
            )
        except OSError:
            _reset(near)
            return
        pipe = _Pipe(near, far)
        self._pipes.add(pipe)
        pumps = [
            asyncio.ensure_future(self._pump(reader, far, pipe)),
            asyncio.ensure_future(self._pump(far_reader, near, pipe)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if pipe.dead.is_set():  # the near end waits in vain, until `half_open` aborts it
                await self._closed(near)
        finally:
            self._pipes.discard(pipe)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            near.close()
            far.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pipe: _Pipe
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flows.wait()
                if pipe.dead.is_set():
                    return
                writer.write(data)
                await writer.drain()

    @staticmethod
    async def _closed(near: asyncio.StreamWriter) -> None:
        while not near.transport.is_closing():
            await asyncio.sleep(0.05)
