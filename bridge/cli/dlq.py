"""`mlbridge dlq`: what was given up, why, and once more or never again."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from bridge.cli.dlq_actions import first, list_of, purged, replayed
from bridge.cli.dlq_options import (
    All,
    Ids,
    Limit,
    Model,
    NewerThan,
    OlderThan,
    Queue,
    QueueChoice,
    Reason,
    selection,
)
from bridge.cli.dlq_report import Tally, tell_missing
from bridge.cli.letter_view import as_json, as_row, as_whole
from bridge.cli.output import Json, errors, print_json, print_table, say
from bridge.errors import InvalidInputError
from bridge.queues.letters import Letter

EXIT_FAILED = 1
_SHOWN_AT_MOST = 50
# RabbitMQ 4 drops a letter when it comes back the 21st time.
_RETURNED_OFTEN = 15

dlq = typer.Typer(
    no_args_is_help=True,
    help="Look at dead letters, send them again, or throw them away.\n\n"
    "What no worker can deal with lies in `<queue>.dead_letter`, with the reason. Mend the cause, "
    "try one with `mlbridge dlq replay ID`, then `mlbridge dlq replay --all`.\n\n"
    "Each look counts as a delivery of all that lie there: on RabbitMQ 4, read "
    "docs/dead-letters.md before looking often.",
)


@dlq.command("list")
def list_letters(
    *,
    queue: Queue = QueueChoice.ALL,
    reason: Reason = None,
    model: Model = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Show so many at most; 0: all.")
    ] = _SHOWN_AT_MOST,
    json: Json = False,
) -> None:
    """List dead letters, oldest first. Takes nothing away.

    Example: `mlbridge dlq list`

    Example: `mlbridge dlq list --reason UnknownTaskError --newer-than 1h`

    Example: `mlbridge dlq list --model digits --limit 0 --json`
    """
    wanted = selection([], reason, model, older_than, newer_than)
    found, counts = asyncio.run(list_of(queue, wanted, limit or None))
    if json:
        print_json({"queues": counts, "letters": [as_json(letter) for letter in found]})
        return
    if found:
        columns = ("position", "task", "why", "age", "attempts", "size")
        print_table("dead letters", columns, map(as_row, found))
    there = ", ".join(
        f"{name} does not exist" if count is None else f"{count:,} in {name}"
        for name, count in counts.items()
    )
    total = sum(count or 0 for count in counts.values())
    say(
        f"{len(found):,} of {total:,} dead letters shown ({there})"
        if total
        else f"no dead letters ({there})"
    )
    if limit and len(found) == limit < total:
        say(f"There may be more: --limit {limit} was reached.")
    _warn_of_returns(found)


@dlq.command("show")
def show(
    letter: Annotated[
        str,
        typer.Argument(metavar="ID_OR_POSITION", help="A task's id, or a position in the list."),
    ],
    queue: Queue = QueueChoice.ALL,
    output: Annotated[
        Path | None, typer.Option(help="Write the body, as it was sent, to this file.")
    ] = None,
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the body, as it was sent, to standard output.")
    ] = False,
    json: Json = False,
) -> None:
    """Show all of one dead letter; long parts, such as tensors, are cut.

    Example: `mlbridge dlq show 5f0c1b6e9a`

    Example: `mlbridge dlq show 3 --output body.json`

    Example: `mlbridge dlq show 3 --raw | jq .args`
    """
    opened = asyncio.run(first(queue, letter))
    if opened is None:
        tell_missing(letter)
        raise typer.Exit(EXIT_FAILED)
    _warn_of_returns([opened.letter])
    if output is not None:
        _write(output, opened.body)
    elif raw:
        _write_out(opened.body)
    elif json:
        print_json(as_whole(opened))
    else:
        print_table(
            f"dead letter {opened.letter.position} of {opened.letter.queue}",
            ("what", "value"),
            [(name, _lines(value)) for name, value in as_whole(opened).items()],
        )


@dlq.command("replay")
def replay(
    ids: Ids = None,
    *,
    queue: Queue = QueueChoice.ALL,
    reason: Reason = None,
    model: Model = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    everything: All = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also tasks that have a result: they run once more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Send dead letters to the queue from which they came, under the same task id.

    The error that the caller was told is deleted, so that the new result can be read. A task that
    has a result by now is left alone. Nothing is lost if this is interrupted; at worst a letter is
    there twice. The exit code is 1 if one was not sent, or none was meant.

    Example: `mlbridge dlq replay 5f0c1b6e9a`

    Example: `mlbridge dlq replay --reason UnknownTaskError --limit 1`

    Example: `mlbridge dlq replay --all --dry-run`
    """
    wanted = selection(ids, reason, model, older_than, newer_than, everything=everything)
    tally = Tally(keep_all=json or dry_run)
    done = False
    try:
        asyncio.run(replayed(queue, wanted, limit, tally, force=force, dry_run=dry_run))
        done = True
    finally:
        tally.show(wanted, json=json, dry_run=dry_run, done=done)
    raise typer.Exit(EXIT_FAILED if tally.fell_short(wanted) else 0)


@dlq.command("purge")
def purge(
    ids: Ids = None,
    *,
    queue: Queue = QueueChoice.ALL,
    reason: Reason = None,
    model: Model = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Throw dead letters away, for good. Asks first.

    The exit code is 1 if none was meant, or the answer was no.

    Example: `mlbridge dlq purge --older-than 7d`

    Example: `mlbridge dlq purge --reason MalformedMessageError --yes`
    """
    wanted = selection(ids, reason, model, older_than, newer_than, everything=everything)
    meant, gone, missing = asyncio.run(purged(queue, wanted, limit, yes=yes))
    if json:
        print_json({"matched": meant, "purged": gone, "not_found": missing})
    elif not meant:
        say("no dead letter matches; nothing was purged")
    else:
        say(f"purged {gone:,} of {meant:,}")
    raise typer.Exit(0 if gone and not missing else EXIT_FAILED)


def _warn_of_returns(found: list[Letter]) -> None:
    often = sum(letter.returned >= _RETURNED_OFTEN for letter in found)
    if often:
        say(
            f"warning: {often:,} of these were handed out {_RETURNED_OFTEN} times or more. "
            "RabbitMQ 4 drops a letter after 20 times, unless a policy says otherwise: see "
            "docs/dead-letters.md",
            errors,
        )


def _lines(value: Any) -> str:
    """A part of a letter in a table's cell."""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _write(path: Path, body: bytes) -> None:
    try:
        path.write_bytes(body)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {len(body):,} bytes to {path}", errors)


def _write_out(body: bytes) -> None:
    """To standard output, if that is no terminal that would obey what it is sent."""
    if sys.stdout.isatty() and not body.decode(errors="replace").isprintable():
        raise InvalidInputError("the body is not all printable: use --output FILE, or a pipe")
    sys.stdout.buffer.write(body)
