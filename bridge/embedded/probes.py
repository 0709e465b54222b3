"""Asks whether a server answers, in its own protocol, with no client library."""

import asyncio
import contextlib
from collections.abc import Awaitable
from urllib.parse import unquote, urlsplit

Opening = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]

PROBE_TIMEOUT_S = 2.0
_AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME = 1
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4


async def _exchange(host: str, port: int, request: bytes, size: int) -> bytes:
    """Send `request`, read `size` bytes; fewer, or none, if nothing answers so."""
    return await _spoken(asyncio.open_connection(host, port), request, size)


async def _spoken(opening: Opening, request: bytes, size: int) -> bytes:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await opening
            try:
                writer.write(request)
                return await reader.readexactly(size)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except OSError:  # includes TimeoutError
        return b""


async def port_open(host: str, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def amqp_answers(host: str, port: int) -> bool:
    """Whether an AMQP 0-9-1 broker greets us; a wrong port, or RabbitMQ half up, does not."""
    return (await _exchange(host, port, _AMQP_HEADER, 1)) == bytes((_METHOD_FRAME,))


async def redis_answers(url: str) -> bool:
    """Whether a Redis answers PING under `url`, with the password in it."""
    parts = urlsplit(url)
    words = ["AUTH", unquote(parts.username or "default"), unquote(parts.password or "")]
    login = _redis_command(*words) if parts.password else b""
    expected = b"+OK\r\n+PONG\r\n" if login else b"+PONG\r\n"
    request = login + _redis_command("PING")
    if parts.scheme == "unix":
        opening = asyncio.open_unix_connection(unquote(parts.path))
    else:
        opening = asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 6379)
    return await _spoken(opening, request, len(expected)) == expected


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET `path` is answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    expected = b"HTTP/1.1 200"
    return await _exchange(host, port, request.encode(), len(expected)) == expected


async def grpc_answers(host: str, port: int) -> bool:
    """Whether an HTTP/2 server, as gRPC needs it, greets us."""
    answer = await _exchange(host, port, _HTTP2_PREFACE, 9)
    return len(answer) == 9 and answer[3] == _SETTINGS_FRAME  # noqa: PLR2004  # a frame's head


def _redis_command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)
