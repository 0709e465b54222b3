"""Where spans begin and end; nothing happens there until somebody puts a tracer in. Pure.

Enters: what happens to a task. Leaves: nothing that anybody has to look at. Must not know
OpenTelemetry, which need not be installed: `bridge.traces` is the tracer that does.
"""

# ruff: noqa: ARG002 - what is told is for subclasses

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Metadata = tuple[tuple[str, str], ...] | None

_NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """Traces nothing, at next to no cost."""

    def here(self) -> Any:
        """A mark of the span that is open here, for `batch`; None: there is none."""
        return None

    def trace_id(self) -> str | None:
        """The trace of the span that is open here, 32 hex digits; None: there is none."""
        return None

    def batch(
        self, model: str, version: str, rows: int, marks: Sequence[Any]
    ) -> AbstractContextManager[None]:
        """One request to Triton for the rows of several messages, each with its `here`."""
        return _NOTHING

    def asking(self, address: str, model: str) -> AbstractContextManager[Metadata]:
        """One call of Triton's; gives the gRPC metadata that carries the trace there."""
        return _NOTHING

    def saving(self) -> AbstractContextManager[None]:
        """A result goes into Redis."""
        return _NOTHING


_in_use: list[Tracer] = [Tracer()]


def tracer() -> Tracer:
    """The tracer of this process."""
    return _in_use[0]


def use(new: Tracer) -> None:
    """Put a tracer in, a subclass; `Tracer()` takes it out again."""
    _in_use[0] = new
