"""All submissions of a run, and what each asks for."""

import random

from bridge.tensors import Array
from bridgechaos.entries import Entry, Want
from bridgechaos.models import CRASH, FAIL, FEATURES, MOODY, SLOW, STEADY, rows

_SLOW = 2  # of 1000


class Book:
    """All submissions of a run."""

    def __init__(self, first_serial: int) -> None:
        """Empty.

        Args:
            first_serial: of its first row; those below belong to other runs.
        """
        self.entries: list[Entry] = []
        self.confirmed = 0
        """Of inferences that must have a result."""
        self._serial = first_serial

    @property
    def next_serial(self) -> int:
        """The first number that no row has yet."""
        return self._serial

    def open(self, producer: str, want: Want, row_count: int = 1) -> Entry:
        """A new entry with rows of its own."""
        serials = tuple(range(self._serial, self._serial + row_count))
        self._serial += row_count
        entry = Entry(producer, want, serials)
        self.entries.append(entry)
        return entry

    def confirm(self, entry: Entry) -> None:
        """RabbitMQ took it."""
        entry.confirmed = True
        self.confirmed += entry.want.record and not entry.model


def model_and_rows(entry: Entry, dice: random.Random) -> tuple[str, Array]:
    """What its message asks for; which model that is, is in the entry from now on."""
    entry.asked, asked = _drawn(entry, dice)
    return entry.asked, asked


def _drawn(entry: Entry, dice: random.Random) -> tuple[str, Array]:
    if entry.want is Want.MODEL_ERROR:
        return MOODY, rows(entry.serials, FAIL)
    if entry.want is Want.CRASH:
        return MOODY, rows(entry.serials, CRASH)
    if entry.want is Want.SHAPE:
        return STEADY, rows(entry.serials)[:, : FEATURES - 1]
    if entry.want is Want.NO_MODEL:
        return "nobody", rows(entry.serials)
    if dice.random() < _SLOW / 1000:
        return MOODY, rows(entry.serials, SLOW)
    return dice.choice((STEADY, STEADY, MOODY)), rows(entry.serials)
