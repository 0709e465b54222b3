"""Where the processes of one machine find each other: behind the loopback interface alone.

torch's own rendezvous listens on every interface, without a password; this one listens on
127.0.0.1. It is torch's for a fixed set of machines, with the one machine. In the training process
only.
"""

import socket

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # they are there
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

LOOPBACK = "127.0.0.1"
BACKEND = "bridge-loopback"

_TIMEOUT_S = 600


class _Loopback(StaticTCPRendezvous):
    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        listener = socket.create_server((LOOPBACK, 0))
        port = int(listener.getsockname()[1])
        store = TCPStore(
            LOOPBACK,
            port,
            is_master=True,
            timeout=self.timeout,
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=listener.detach(),  # the store closes it
        )
        return RendezvousInfo(
            PrefixStore(self.run_id, store),
            self.rank,
            self.world_size,
            RendezvousStoreInfo(LOOPBACK, port),
        )


def register() -> str:
    """Make it known to torch's launcher; returns the name to ask for it by."""
    rendezvous_handler_registry.register(BACKEND, _make)
    return BACKEND


def _make(parameters: RendezvousParameters) -> RendezvousHandler:
    return _Loopback(LOOPBACK, 0, 0, 1, parameters.run_id, _TIMEOUT_S)
