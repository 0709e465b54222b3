"""Where the processes that train together find each other. In the training process only.

Those of one machine meet behind the loopback interface alone: torch's own rendezvous listens on
every interface, without a password. Those of several machines meet at the address of the first,
which these, and nobody else, should be able to reach (docs/security.md). Both are torch's own
rendezvous for a fixed set of machines, of which each knows its number.
"""

import socket
from dataclasses import dataclass
from typing import Any, Self

import psutil
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # they are there
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from bridge.errors import TrainingCrashedError

LOOPBACK = "127.0.0.1"
BACKEND = "bridge-fixed"

_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Meeting:
    """A place, and who this machine is there."""

    address: str
    """Of the first machine, as this one reaches it."""
    port: int
    rank: int = 0
    """This machine's number; the first one's is 0."""
    nodes: int = 1
    listener: int | None = None
    """The first machine's open socket."""

    @classmethod
    def host(cls, address: str, nodes: int = 1) -> Self:
        """Open one on a free port of this machine's `address`, which was checked before."""
        listener = socket.create_server((address, 0), family=_family(address))
        port = int(listener.getsockname()[1])
        return cls(address, port, nodes=nodes, listener=listener.detach())

    @property
    def configuration(self) -> dict[str, Any]:
        """What `LaunchConfig` hands to our rendezvous."""
        return {
            "address": self.address,
            "port": self.port,
            "rank": self.rank,
            "nodes": self.nodes,
            "listener": self.listener,
        }

    @property
    def interface(self) -> tuple[str, str]:
        """This machine's own address there, and the network interface that has it.

        Raises:
            TrainingCrashedError: there is no way to the first machine.
        """
        try:
            with socket.socket(_family(self.address), socket.SOCK_DGRAM) as probe:
                probe.connect((self.address, self.port))  # sends nothing
                own = str(probe.getsockname()[0])
        except OSError as error:
            raise TrainingCrashedError(f"no way to {self.address!r}: {error}") from None
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address.partition("%")[0] == own for each in addresses):
                return own, name
        raise TrainingCrashedError(f"no network interface of this machine has {own}")


def _family(address: str) -> socket.AddressFamily:
    return socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]


class _Fixed(StaticTCPRendezvous):
    """The first machine serves the store, on a socket that is open already; others connect."""

    listener: int | None = None

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        store = TCPStore(
            self.master_addr,
            self.master_port,
            is_master=self.listener is not None,
            timeout=self.timeout,
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=self.listener,  # the store closes it
        )
        return RendezvousInfo(
            PrefixStore(self.run_id, store),
            self.rank,
            self.world_size,
            RendezvousStoreInfo(self.master_addr, self.master_port),
        )


def register() -> str:
    """Make it known to torch's launcher; returns the name to ask for it by."""
    rendezvous_handler_registry.register(BACKEND, _make)
    return BACKEND


def _make(parameters: RendezvousParameters) -> RendezvousHandler:
    asked = parameters.config
    handler = _Fixed(
        asked["address"],
        asked["port"],
        asked["rank"],
        asked["nodes"],
        parameters.run_id,
        _TIMEOUT_S,
    )
    handler.listener = asked["listener"]
    return handler
