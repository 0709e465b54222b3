"""The judge: what was promised to producers against what was found at the end. Pure.

Enters: one entry for each submission; the evidence, as `audit` gathered it. Leaves: a `Balance`,
with the name of each task for which it does not balance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridgechaos.entries import Entry, Evidence, Found

_SHOWN = 20


@dataclass(slots=True)
class Balance:
    """Counts, and the tasks that are wrong, each as a line for a person."""

    submitted: int = 0
    """And confirmed."""
    unconfirmed: int = 0
    unconfirmed_done: int = 0
    """Of these, how many have a result all the same."""
    succeeded: int = 0
    deserved: int = 0
    """Failed as their input deserves."""
    late: int = 0
    """No end yet, but still in a queue; the queue is stuck."""
    letters: int = 0
    letters_again: int = 0
    """Copies beyond the first."""
    executed_again: int = 0
    """Rows run beyond the first time, however often."""
    lost: list[str] = field(default_factory=list)
    failed_wrongly: list[str] = field(default_factory=list)
    wrong_answers: list[str] = field(default_factory=list)
    two_places: list[str] = field(default_factory=list)
    two_outcomes: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    """Ended only when the workers were restarted by hand."""
    trainings: int = 0
    """Of those that were submitted."""
    trained: int = 0
    cancelled: int = 0
    cancelled_live: int = 0
    """Trainings that were cancelled when they had just been published."""
    no_version: list[str] = field(default_factory=list)
    published_twice: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must be empty, by its name for a person."""
        return {
            "lost": self.lost,
            "failed wrongly": self.failed_wrongly,
            "wrong answers": self.wrong_answers,
            "in two places": self.two_places,
            "told one end, recorded another": self.two_outcomes,
            "results of nobody's tasks": self.strangers,
            "stuck in a queue": self.stuck,
            "stuck in a worker until it was restarted": self.freed,
            "trained without the version that was told": self.no_version,
            "published twice, or though it failed": self.published_twice,
            "left behind by trainings": self.left_over,
        }

    @property
    def balanced(self) -> bool:
        """Everything that was confirmed has ended, once, and as it deserves."""
        return not any(self.faults.values())

    def described(self) -> str:
        """The first few of each fault, a line each."""
        return "\n".join(
            line
            for name, lines in self.faults.items()
            if lines
            for line in (f"{name}: {len(lines)}", *(f"  {it}" for it in lines[:_SHOWN]))
        )


def balance(entries: Sequence[Entry], evidence: Evidence, freed: Sequence[str] = ()) -> Balance:
    """Judge every entry, and then what nobody asked for.

    Args:
        entries: all submissions.
        evidence: what was found.
        freed: ids that had no end in time, before the workers were restarted.
    """
    found = Balance(freed=[task_id for task_id in freed if task_id in evidence.records])
    for entry in entries:
        if entry.confirmed:
            found.submitted += 1
            _judge(entry, evidence, found)
        else:
            found.unconfirmed += 1
            _look_at_unconfirmed(entry, evidence, found)
        if entry.told is not None and not entry.told.right:
            found.wrong_answers.append(
                f"{entry.task_id} of {entry.producer}: its caller was told: {entry.told.text}"
            )
        _judge_versions(entry, evidence, found)
    _look_for_strangers(entries, evidence, found)
    found.left_over = list(evidence.left_over)
    again = (times - 1 for times in evidence.executions.values() if times > 1)
    found.executed_again = sum(again)
    found.stuck = [
        f"{name}: {ready} ready, {unacked} unacknowledged"
        for name, (ready, unacked) in evidence.queues.items()
        if ready or unacked
    ]
    return found


def _judge(entry: Entry, evidence: Evidence, found: Balance) -> None:
    """A confirmed entry: exactly one end, the one that it deserves."""
    task_id = entry.task_id or ""
    record = evidence.records.get(task_id)
    copies = evidence.letters.get(task_id, 0)
    line = f"{task_id} of {entry.producer}, deserves {entry.want.value}"
    if task_id in evidence.waiting and record is None:
        found.late += 1
        return
    found.letters += bool(copies)
    found.letters_again += max(0, copies - 1)
    if (entry.want.record and record is None and not copies) or (entry.want.letter and not copies):
        seen = (
            "" if entry.told is None else f"; its caller was told {entry.told.error or 'success'!r}"
        )
        found.lost.append(f"{line}: nowhere{seen}")
        return
    if record is None:
        if entry.want.record:
            found.failed_wrongly.append(f"{line}: dead-lettered")
        return
    if copies and not entry.want.letter:
        found.two_places.append(f"{line}: a dead letter and a result")
    _judge_record(entry, record, line, found)


def _judge_record(entry: Entry, record: Found, line: str, found: Balance) -> None:
    told, kept = None if entry.told is None else _end(entry.told), _end(record)
    if told not in {None, kept}:
        found.two_outcomes.append(f"{line}: told {told}, recorded {kept}")
    if record.error:
        deserved = entry.want.errors
        if deserved is None or record.error in deserved:
            found.deserved += 1
        else:
            found.failed_wrongly.append(f"{line}: {record.error}: {record.text}")
    elif not entry.want.success or not record.right:
        found.wrong_answers.append(f"{line}: a success that is not right: {record.text}")
    else:
        found.succeeded += 1


def _end(it: Found) -> str:
    """Which end it is: what was told and what is recorded must be the same."""
    return it.error or f"success {it.version}".rstrip()


def _judge_versions(entry: Entry, evidence: Evidence, found: Balance) -> None:
    """A training that succeeded has one version, the one that it told; any other has none."""
    record = evidence.records.get(entry.task_id or "")
    found.trainings += bool(entry.confirmed and entry.model)
    if record is None or not entry.model:
        return
    found.cancelled += record.error == "TaskCancelledError"
    versions = list(evidence.versions.get(entry.task_id or "", ()))
    line = f"{entry.task_id} of {entry.producer}: {versions}"
    if not record.error:
        found.trained += 1
        if record.version not in versions:
            found.no_version.append(f"{line}, told {record.version}")
        if len(versions) > 1:
            found.published_twice.append(line)
    elif record.error == "TaskCancelledError" and len(versions) == 1:
        found.cancelled_live += 1  # it came too late for that
    elif versions:
        found.published_twice.append(f"{line}, {record.error}")


def _look_at_unconfirmed(entry: Entry, evidence: Evidence, found: Balance) -> None:
    record = evidence.records.get(entry.task_id or "")
    if record is None:
        return
    found.unconfirmed_done += 1
    if not record.error and not record.right:
        found.wrong_answers.append(f"{entry.task_id} of {entry.producer}, never confirmed")


def _look_for_strangers(entries: Sequence[Entry], evidence: Evidence, found: Balance) -> None:
    """Results and letters under ids that no entry has.

    Some are to be expected: a client that could not submit does not say under which id it tried.
    """
    known = {entry.task_id for entry in entries}
    strangers = sorted((set(evidence.records) | set(evidence.letters)) - known)
    found.wrong_answers += [
        f"{task_id} of nobody who knows it: {record.text}"
        for task_id in strangers
        if (record := evidence.records.get(task_id)) is not None and not record.right
    ]
    nameless = sum(entry.task_id is None for entry in entries)
    if len(strangers) > nameless:
        found.strangers = strangers
    else:
        found.unconfirmed_done += len(strangers)
