"""One page over HTTP, within a time; for looking at servers, never on the way of a task.

Enters: a URL. Leaves: status and body. Must not know what stands in it.
"""

import asyncio
import base64
import http.client
import socket
import ssl
from urllib.parse import urlsplit

from bridge.certificates import TlsFiles

_MOST_BYTES = 32 * 2**20


async def fetch(
    url: str,
    *,
    address: str | None = None,
    timeout_s: float = 3.0,
    user: tuple[str, str] | None = None,
    files: TlsFiles | None = None,
) -> tuple[int, bytes]:
    """GET a page.

    Args:
        url: `http://` or `https://`.
        address: the IP address to ask, of those that the URL's host has; None: any that answers.
        timeout_s: for connecting, and for each answer's part.
        user: name and password, for basic authentication.
        files: for `https://`, who to trust and who we are; the machine's authorities by default.

    Returns:
        The HTTP status, and the body.

    Raises:
        OSError: nothing answers there, or not in time.
    """
    return await asyncio.to_thread(_fetch, url, address, timeout_s, user, files)


async def servers_of(url: str) -> list[str]:
    """The IP addresses of a URL's host, where they are several servers; else none.

    Containers of one service share a name. A host with one address of each kind is one server.
    """
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname or "localhost", parts.port, type=socket.SOCK_STREAM
        )
    except OSError:  # who asks there hears why
        return []
    by_kind: dict[int, list[str]] = {}
    for family, _, _, _, place in found:
        by_kind.setdefault(family, []).append(str(place[0]))
    most = max((list(dict.fromkeys(kind)) for kind in by_kind.values()), key=len, default=[])
    return sorted(most) if len(most) > 1 else []


def _fetch(
    url: str,
    address: str | None,
    timeout_s: float,
    user: tuple[str, str] | None,
    files: TlsFiles | None,
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    connection: http.client.HTTPConnection
    context = _context(files) if parts.scheme == "https" else None
    if context is not None:
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=timeout_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    headers = {"Accept": "*/*"}
    if user is not None:
        token = base64.b64encode(":".join(user).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    path = parts.path or "/"
    try:
        if address is not None:
            reached = socket.create_connection((address, connection.port), timeout_s)
            connection.sock = (
                reached if context is None else context.wrap_socket(reached, server_hostname=host)
            )
        connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES)
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP there ({type(error).__name__})") from None
    finally:
        connection.close()


def _context(files: TlsFiles | None) -> ssl.SSLContext:
    ca, cert, key = files or TlsFiles(None, None, None)
    context = ssl.create_default_context(cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
