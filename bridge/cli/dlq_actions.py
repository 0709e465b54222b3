"""What the commands of `mlbridge dlq` do, once it is clear what a person wants."""

import contextlib
from collections.abc import AsyncGenerator

from bridge.cli.dlq_options import QueueChoice, confirmed, progress
from bridge.cli.dlq_report import Tally, tell_missing
from bridge.queues import open_letters
from bridge.queues.letters import Letter, Letters, Opened, Selection, chosen
from bridge.queues.replay import Outcome, Records, Replay
from bridge.settings import load_settings


async def list_of(
    queue: QueueChoice, wanted: Selection, limit: int | None
) -> tuple[list[Letter], dict[str, int | None]]:
    """Those that are meant, and how many there are in each queue."""
    found: list[Letter] = []
    counts: dict[str, int | None] = {}
    async with open_letters(load_settings(), queue.kinds) as queues:
        for letters in queues:
            counts[letters.queue] = await letters.count()
            async with _chosen(letters, wanted, limit, len(found)) as those:
                found += [opened.letter async for opened in those]
    return found, counts


async def first(queue: QueueChoice, name: str) -> Opened | None:
    """The oldest of that id or position."""
    async with open_letters(load_settings(), queue.kinds) as queues:
        for letters in queues:
            async with _chosen(letters, Selection(frozenset({name})), 1) as those:
                async for opened in those:
                    return opened
    return None


async def replayed(
    queue: QueueChoice,
    wanted: Selection,
    limit: int | None,
    tally: Tally,
    *,
    force: bool,
    dry_run: bool,
) -> None:
    """Replay those that are meant; `tally` has what came of it, also where this is interrupted."""
    settings = load_settings()
    records = Records(settings)
    try:
        async with open_letters(settings, queue.kinds) as queues:
            with progress() as bar:
                task = bar.add_task("replaying", total=await _total(queues, wanted, limit))

                def report(letter: Letter, outcome: Outcome, note: str) -> None:
                    tally.add(letter, outcome, note, wanted)
                    bar.advance(task)

                run = Replay(records, report, force=force, dry_run=dry_run)
                meant = 0
                for letters in queues:
                    meant += await run.run(letters, wanted, limit and limit - meant)
    finally:
        await records.close()


async def purged(
    queue: QueueChoice, wanted: Selection, limit: int | None, *, yes: bool
) -> tuple[int, int, list[str]]:
    """How many were meant, how many are gone, and which names meant none.

    All are held while the question stands: what is purged is what was counted.
    """
    async with open_letters(load_settings(), queue.kinds) as queues:
        doomed: list[tuple[Letters, Letter]] = []
        missing = wanted.names
        for letters in queues:
            async with _chosen(letters, wanted, limit, len(doomed)) as found:
                async for opened in found:
                    doomed.append((letters, opened.letter))
                    missing -= wanted.named(opened.letter)
        for name in sorted(missing):
            tell_missing(name)
        if not doomed:
            return 0, 0, sorted(missing)
        places = ", ".join(sorted({letter.queue for _, letter in doomed}))
        question = f"Throw away {len(doomed):,} dead letters of {places} for good?"
        if not yes and not await confirmed(question):
            return len(doomed), 0, sorted(missing)
        with progress() as bar:
            for letters, letter in bar.track(doomed, description="purging"):
                await letters.remove(letter)
    return len(doomed), len(doomed), sorted(missing)


def _chosen(
    letters: Letters, wanted: Selection, limit: int | None, had: int = 0
) -> contextlib.aclosing[AsyncGenerator[Opened, None]]:
    """Those of one queue, after so many from the queues before."""
    return contextlib.aclosing(chosen(letters, wanted, limit and limit - had))


async def _total(queues: list[Letters], wanted: Selection, limit: int | None) -> int | None:
    """How many it will be; None where that is not known before each was looked at."""
    if not wanted.everything:
        return None
    there = sum([await letters.count() or 0 for letters in queues])
    return there if limit is None else min(there, limit)
