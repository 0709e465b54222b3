"""The proxy breaks a connection in each way, and no other."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import pytest
from bridgechaos.proxy import Link


@asynccontextmanager
async def echoing():
    """A link to a server that sends back what comes; yields it with the server's connections."""
    ended = []

    async def echo(reader, writer):
        with contextlib.suppress(OSError):  # a cut link is what these tests are about
            while data := await reader.read(100):
                writer.write(data)
        ended.append(True)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link("link", server.sockets[0].getsockname()[1]) as link:
        yield link, ended


async def said(reader, writer, text=b"hello", within_s=5.0):
    writer.write(text)
    async with asyncio.timeout(within_s):
        return await reader.readexactly(len(text))


async def test_bytes_pass():
    async with echoing() as (link, _):
        ends = await asyncio.open_connection("127.0.0.1", link.port)
        assert await said(*ends) == b"hello"
        async with link.delayed(0.01):
            assert await said(*ends) == b"hello"
        ends[1].close()


async def test_cut():
    async with echoing() as (link, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert await said(reader, writer) == b"hello"
        async with link.cut():
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", link.port)
        ends = await asyncio.open_connection("127.0.0.1", link.port)
        assert await said(*ends) == b"hello"
        ends[1].close()


async def test_blackholed_bytes_come_later():
    async with echoing() as (link, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert await said(reader, writer) == b"hello"
        async with link.blackholed():
            with pytest.raises(TimeoutError):
                await said(reader, writer, within_s=0.3)
        async with asyncio.timeout(5):
            assert await reader.readexactly(5) == b"hello"
        writer.close()


async def test_half_open():
    async with echoing() as (link, ended):
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert await said(reader, writer) == b"hello"
        async with link.half_open():
            with pytest.raises(TimeoutError):
                await said(reader, writer, within_s=0.3)
            assert ended
            ends = await asyncio.open_connection("127.0.0.1", link.port)
            assert await said(*ends) == b"hello"
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        assert await said(*ends) == b"hello"
        ends[1].close()
