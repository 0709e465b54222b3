"""Where the servers of this run are, as the benchmark tells its workers."""

import os
from dataclasses import dataclass

RESULT_TTL_S = 86_400
"""Every competitor keeps results this long: when one was written is read from what is left."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses, with passwords."""

    amqp_url: str
    redis_url: str
    triton: str
    """gRPC, `host:port`."""

    def variables(self) -> dict[str, str]:
        """For the environment of a worker process."""
        return {
            "BENCH_AMQP_URL": self.amqp_url,
            "BENCH_REDIS_URL": self.redis_url,
            "BENCH_TRITON": self.triton,
        }


def read_servers() -> Servers:
    """What the benchmark put into this process's environment."""
    return Servers(
        amqp_url=os.environ["BENCH_AMQP_URL"],
        redis_url=os.environ["BENCH_REDIS_URL"],
        triton=os.environ["BENCH_TRITON"],
    )
