"""What is measured. Each module has a name, a title and `measure(run) -> Report`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bridgebench.findings import Report
from bridgebench.scenarios import (
    batches,
    drain,
    growth,
    idle,
    images,
    load,
    memory,
    stages,
    variants,
)
from bridgebench.scenarios.run import Options, Run, open_run


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them."""

    title: str
    measure: Callable[[Run], Awaitable[Report]]


SCENARIOS = {
    module.NAME: Scenario(module.TITLE, module.measure)
    for module in (drain, stages, idle, batches, images, load, memory, growth, variants)
}
"""By name, in the order in which a run goes through them."""
USUAL = tuple(name for name in SCENARIOS if name != variants.NAME)
"""Those of a whole run."""

__all__ = ["SCENARIOS", "USUAL", "Options", "Run", "Scenario", "open_run"]
