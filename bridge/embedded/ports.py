"""Free TCP ports on 127.0.0.1."""

import random
import socket
from pathlib import Path

_LOWEST = 15_000
_TRIES = 200
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Find ports that nothing listens on.

    They lie below the range from which the kernel picks ports for outgoing connections. Inside
    it, a client that keeps reconnecting to a server which is being restarted can, by chance,
    connect to itself, and so take the server's port.

    Args:
        count: how many.

    Returns:
        Different ports. Nothing reserves them: start the servers soon.
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
        except OSError:
            sock.close()
        else:
            return sock
    raise OSError("no free port on 127.0.0.1")
