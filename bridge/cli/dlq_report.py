"""What a replay did, letter by letter as far as a person must know, and in all."""

from collections import Counter
from typing import Any

from bridge.cli.letter_view import as_row, cut_text
from bridge.cli.output import errors, print_json, print_table, say
from bridge.queues.letters import Letter, Selection
from bridge.queues.replay import Outcome

_SHOWN_AT_MOST = 20


def tell_missing(name: str) -> None:
    """Say that a name means no letter."""
    say(f"no dead letter is called {cut_text(name, 80)}", errors)


class Tally:
    """Counts outcomes; keeps the letters that were not sent, or all where they will be shown."""

    def __init__(self, *, keep_all: bool) -> None:
        self._keep_all = keep_all
        self._counts: Counter[Outcome] = Counter()
        self._kept: list[tuple[Letter, Outcome, str]] = []
        self._named: set[str] = set()
        self._unreadable = 0

    def add(self, letter: Letter, outcome: Outcome, note: str, wanted: Selection) -> None:
        """One letter's outcome, and why."""
        self._counts[outcome] += 1
        self._named |= wanted.named(letter)
        if outcome is Outcome.REPLAYED and letter.malformed is not None:
            self._unreadable += 1
        if self._keep_all or outcome is not Outcome.REPLAYED:
            self._kept.append((letter, outcome, note))

    def fell_short(self, wanted: Selection) -> bool:
        """Something failed, a name was not found, or nothing was meant."""
        return bool(
            self._counts[Outcome.FAILED] or wanted.names - self._named or not self._counts.total()
        )

    def show(self, wanted: Selection, *, json: bool, dry_run: bool, done: bool) -> None:
        """Print it all.

        Args:
            wanted: which letters were meant.
            json: as one document.
            dry_run: nothing was done.
            done: it was not interrupted.
        """
        if not done and not self._counts:
            return  # it ended before it began, in an error that will be told
        missing = sorted(wanted.names - self._named) if done else []
        if json:
            print_json(self._fields(missing, dry_run=dry_run, done=done))
            return
        if self._kept:
            rows = [
                (*as_row(letter)[:3], letter.origin, f"{outcome} {note}".strip())
                for letter, outcome, note in self._kept[:_SHOWN_AT_MOST]
            ]
            columns = ("position", "task", "why", "to", "would be" if dry_run else "outcome")
            print_table("letters", columns, rows)
        if len(self._kept) > _SHOWN_AT_MOST:
            say(f"... and {len(self._kept) - _SHOWN_AT_MOST:,} more")
        for name in missing:
            tell_missing(name)
        if self._unreadable:
            say(
                f"warning: {self._unreadable:,} of these cannot be read as tasks; the worker will "
                "dead-letter them again",
                errors,
            )
        say(self._sentence(dry_run=dry_run, done=done))

    def _sentence(self, *, dry_run: bool, done: bool) -> str:
        counts = self._counts
        if done and not counts.total():
            return "no dead letter matches; nothing was replayed"
        text = f"{'would replay' if dry_run else 'replayed'} {counts[Outcome.REPLAYED]:,}"
        if counts[Outcome.KEPT]:
            text += f"; left {counts[Outcome.KEPT]:,} that have a result (--force sends them too)"
        if counts[Outcome.FAILED]:
            text += f"; failed {counts[Outcome.FAILED]:,}, which lie where they lay"
        if not done:
            text += "; then it ended early: all others lie where they lay, a few perhaps twice"
        return text

    def _fields(self, missing: list[str], *, dry_run: bool, done: bool) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            "complete": done,
            **{str(outcome): self._counts[outcome] for outcome in Outcome},
            "unreadable": self._unreadable,
            "not_found": missing,
            "letters": [
                {
                    "position": letter.position,
                    "task_id": letter.task_id,
                    "queue": letter.queue,
                    "origin": letter.origin,
                    "outcome": outcome,
                    "note": note,
                }
                for letter, outcome, note in self._kept
            ],
        }
