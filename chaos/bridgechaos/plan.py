"""What breaks when: drawn from a seed, the same for the same seed.

Pure. Kinds come as from a shuffled deck, so that each appears once before any does twice; times
are drawn evenly, so that faults overlap at random. The schedule repeats exactly; how the parts
meet it does not.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The first faults find everything at work.
_QUIET_S = 1.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: on whom, when, and for how long it is left broken."""

    number: int
    at_s: float
    kind: str
    target: str
    lasts_s: float
    severity: float
    """Between 0 and 1; what it means is the kind's."""

    def __str__(self) -> str:
        return f"{self.kind} of {self.target} at {self.at_s:.1f} s for {self.lasts_s:.1f} s"


def draw(
    seed: int, targets: Mapping[str, Sequence[str]], count: int, within_s: float, longest_s: float
) -> list[Fault]:
    """A schedule.

    Args:
        seed: of it all.
        targets: by kind, what it can befall.
        count: of faults.
        within_s: seconds in which all begin.
        longest_s: for how long a part is left broken, at most.

    Raises:
        ValueError: there is nothing to break.
    """
    if count and not targets:
        raise ValueError("there is nothing to break")
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    kinds: list[str] = []
    while len(kinds) < count:
        deck = sorted(targets)
        dice.shuffle(deck)
        kinds += deck
    times = sorted(dice.uniform(_QUIET_S, max(within_s, _QUIET_S)) for _ in range(count))
    return [
        Fault(
            number=number,
            at_s=at_s,
            kind=kind,
            target=dice.choice(targets[kind]),
            lasts_s=dice.uniform(0.5, longest_s),
            severity=dice.random(),
        )
        for number, (at_s, kind) in enumerate(zip(times, kinds, strict=False))
    ]


def draw_each(
    seed: int, targets: Mapping[str, Sequence[str]], rounds: int, longest_s: float
) -> list[Fault]:
    """Every kind on everything that it can befall, for one after the other; each round reshuffled.

    Args:
        seed: of it all.
        targets: by kind, what it can befall.
        rounds: how often.
        longest_s: for how long a part is left broken, at most.
    """
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    pairs: list[tuple[str, str]] = []
    for _ in range(rounds):
        deck = [(kind, target) for kind in sorted(targets) for target in targets[kind]]
        dice.shuffle(deck)
        pairs += deck
    return [
        Fault(
            number=number,
            at_s=0.0,
            kind=kind,
            target=target,
            lasts_s=dice.uniform(0.5, longest_s),
            severity=dice.random(),
        )
        for number, (kind, target) in enumerate(pairs)
    ]
