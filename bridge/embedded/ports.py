"""Free TCP ports on 127.0.0.1."""

import os
import random
import socket
from collections import deque
from pathlib import Path

_LOWEST = 15_000
_TRIES = 200
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Sockets in Linux's abstract namespace: bound by one process alone, and gone with it, however it
# ends. The latest are enough: a server that runs holds its port itself.
_claims: deque[int] = deque()
_MOST_CLAIMS = 128


def free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on, and that were not just given to somebody else.

    They lie below the range from which the kernel picks ports for outgoing connections. Inside
    it, a client that keeps reconnecting to a server which is being restarted can, by chance,
    connect to itself, and so take the server's port.

    Args:
        count: how many.

    Returns:
        Different ports. Only other callers of this, in whatever process, stay away from them.
    """
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            held.append(_bound_socket())
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def _bound_socket() -> socket.socket:
    below = int(_RANGE_FILE.read_text().split()[0]) if _RANGE_FILE.exists() else 32_768
    for attempt in range(_TRIES):
        wide_enough = below - _LOWEST > _TRIES
        last = attempt == _TRIES - 1 or not wide_enough
        # 0 lets the kernel choose, where there is no room below its own range.
        port = 0 if last else random.randrange(_LOWEST, below)  # noqa: S311  # not a secret
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind(("127.0.0.1", port))
            _claim(sock.getsockname()[1])
        except OSError:
            sock.close()
        else:
            return sock
    raise OSError("no free port on 127.0.0.1")


def _claim(port: int) -> None:
    """Raises an OSError if another has it: a server may need seconds until it listens."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0mlbridge-port-{port}")
    except OSError:
        claim.close()
        raise
    _claims.append(claim.detach())
    if len(_claims) > _MOST_CLAIMS:
        os.close(_claims.popleft())
