"""What a run is asked for, and what it found. Pure."""

from dataclasses import dataclass, field

from bridgechaos.ledger import Balance
from bridgechaos.plan import Fault

_MOST_GROWTH_MB = 150.0
_MOST_STALL_S = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is."""

    seed: int
    faults: int
    tasks: int
    per_s: float
    longest_s: float
    """For how long a part is left broken, at most."""
    settle_s: float
    """How long the end of everything may take, once all parts are back."""
    only: tuple[str, ...] = ()
    """Kinds of faults; empty: all."""
    rounds: int = 0
    """0: `faults` of them at drawn times, over `tasks`. Else each kind on each of its targets, one
    at a time and so often, while tasks come."""
    trainings: int = 0
    """How many, over the time of the load; only of a stack that has training workers."""
    pauses: bool = True
    """Some of these are paused, after which a message waits for a minute."""
    command: str = ""
    """By which a person asked for it."""

    @property
    def load_s(self) -> float:
        """Seconds in which all is submitted; without a meaning where there are `rounds`."""
        return self.tasks / self.per_s


@dataclass(slots=True)
class Hit:
    """One fault that was done."""

    fault: Fault
    recovery_s: float | None
    """From when its part was back until a probe succeeded; None: none did."""
    ended_s: float | None = None
    """From then until all had ended that was submitted before; only of faults one at a time."""
    nobody: bool = False
    """There was nothing that it could hit."""


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    options: Options
    balance: Balance = field(default_factory=Balance)
    hits: list[Hit] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Kinds that could not be had, and why."""
    took_s: float = 0.0
    settled_s: float = 0.0
    stall_s: float = 0.0
    """The longest time without a result while every part was up and something was due."""
    growth_mb: float = 0.0
    hung: int = 0
    """Submissions of our client that did not end in time."""
    deaf: int = 0
    """Callers who waited for a result that was there, and were not told."""
    zombies: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    """Parts, and processes of worker pools, that ended although nobody broke them."""
    not_back: list[str] = field(default_factory=list)
    """Parts that did not come back by themselves, as they have to, after a fault."""
    harness: list[str] = field(default_factory=list)
    """What went wrong in the harness itself: then nothing is proven."""

    @property
    def troubles(self) -> list[str]:
        """Everything for which the run fails, beside the ledger."""
        found = [f"harness: {text}" for text in self.harness]
        found += [f"zombie: {text}" for text in self.zombies]
        found += [f"unexpected: {text}" for text in self.unexpected]
        found += [f"not back: {text}" for text in self.not_back]
        found += [f"no recovery from {hit.fault}" for hit in self.hits if hit.recovery_s is None]
        if self.options.rounds:
            late = [hit.fault for hit in self.hits if hit.ended_s is None]
            found += [f"not all had ended in time after {fault}" for fault in late]
        if self.hung:
            found.append(f"{self.hung} submissions hung")
        if self.deaf:
            found.append(f"{self.deaf} callers were never told of a result")
        if self.stall_s > _MOST_STALL_S:
            found.append(f"nothing ended for {self.stall_s:.0f} s though all parts were up")
        if self.growth_mb > _MOST_GROWTH_MB:
            found.append(f"a worker grew by {self.growth_mb:.0f} MB")
        return found

    @property
    def good(self) -> bool:
        """The ledger balances, and nothing else is wrong."""
        return self.balance.balanced and not self.troubles
