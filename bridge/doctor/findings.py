"""Findings: how bad, what, and what to do. The catalogue of all of them is `KINDS`.

docs/operating.md holds the same as a table, with what each means; a test compares the two.
"""

from dataclasses import dataclass
from enum import IntEnum

from bridge.doctor.kinds import catalogue


class Severity(IntEnum):
    """How bad; the exit code of `mlbridge doctor` follows the worst."""

    OK = 0
    NOTE = 1
    """Nothing is wrong, but somebody should know."""
    WARNING = 2
    """It works now, or for some."""
    ERROR = 3
    """It does not work, or loses something."""

    @property
    def label(self) -> str:
        """As people and JSON have it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Kind:
    """What findings of one code have in common."""

    severity: Severity
    remedy: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    code: str
    severity: Severity
    what: str
    remedy: str
    check: str = ""
    """Which check found it; filled in by `examine`."""


KINDS: dict[str, Kind] = {
    code: Kind(Severity[name], remedy)
    for name, codes in catalogue.items()
    for code, remedy in codes.items()
}


def finding(code: str, what: str) -> Finding:
    """A finding of the catalogue.

    Args:
        code: its key there.
        what: what was found this time.
    """
    kind = KINDS[code]
    return Finding(code, kind.severity, what, kind.remedy)


def fine(what: str) -> Finding:
    """Nothing is wrong; `what` was looked at."""
    return Finding("ok", Severity.OK, what, "")
