"""Where spans begin and end; nothing happens there until somebody puts a tracer in. Pure.

Enters: what happens to a task. Leaves: nothing that anybody has to look at. Must not know
OpenTelemetry, which need not be installed: `bridge.traces` is the tracer that does.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

Metadata = tuple[tuple[str, str], ...] | None


class Tracer(Protocol):
    """What may be put in."""

    def here(self) -> Any:
        """A mark of the span that is open here, for `batch`; None: there is none."""
        ...

    def trace_id(self) -> str | None:
        """The trace of the span that is open here, 32 hex digits."""
        ...

    def batch(
        self, model: str, version: str, rows: int, marks: Sequence[Any]
    ) -> AbstractContextManager[None]:
        """One request to Triton for the rows of several messages, each with its `here`."""
        ...

    def asking(self, address: str, model: str) -> AbstractContextManager[Metadata]:
        """One call of Triton's; gives the gRPC metadata that carries the trace there."""
        ...

    def saving(self) -> AbstractContextManager[None]:
        """A result goes into Redis."""
        ...


_NOTHING: AbstractContextManager[None] = nullcontext()


class NoTracer:
    """Traces nothing, at next to no cost."""

    def here(self) -> None:
        """No span is open."""

    def trace_id(self) -> None:
        """There is no trace."""

    def batch(
        self,
        model: str,  # noqa: ARG002 - as `Tracer`
        version: str,  # noqa: ARG002
        rows: int,  # noqa: ARG002
        marks: Sequence[Any],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Nothing."""
        return _NOTHING

    def asking(self, address: str, model: str) -> AbstractContextManager[Metadata]:  # noqa: ARG002 - as `Tracer`
        """Nothing."""
        return _NOTHING

    def saving(self) -> AbstractContextManager[None]:
        """Nothing."""
        return _NOTHING


_in_use: list[Tracer] = [NoTracer()]


def tracer() -> Tracer:
    """The tracer of this process."""
    return _in_use[0]


def use(new: Tracer) -> None:
    """Put a tracer in; `NoTracer()` takes it out again."""
    _in_use[0] = new
