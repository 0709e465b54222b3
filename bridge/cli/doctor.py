"""`mlbridge doctor`: what is wrong, and what to do about it."""

import asyncio
from typing import Annotated

import typer

from bridge.cli.output import Json, console, print_json, say
from bridge.doctor import CHECKS, Finding, Severity, examine, finding
from bridge.errors import SettingsError
from bridge.settings import load_settings

_EXIT = {Severity.WARNING: 1, Severity.ERROR: 2}
_STYLES = {
    Severity.OK: "green",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "bold red",
}


def doctor(
    *,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help=f"One of {', '.join(CHECKS)}. Repeat for more."),
    ] = None,
    json: Json = False,
) -> None:
    """Look for what goes wrong in practice, on each part and on this machine.

    The exit code is 0 if nothing is worse than a note, 1 for a warning, 2 for an error.
    docs/operating.md lists all that it can find. Run it with a worker's environment, where that
    worker runs.

    Example: `mlbridge doctor`

    Example: `mlbridge doctor --only redis --only triton --json`
    """
    unknown = sorted(set(only or ()) - set(CHECKS))
    if unknown:
        raise typer.BadParameter(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    try:
        found = asyncio.run(examine(load_settings(), only or ()))
    except SettingsError as error:
        found = [finding("settings-unusable", str(error))]
    worst = max(each.severity for each in found)
    if json:
        print_json({"worst": worst.label, "findings": [_as_json(each) for each in found]})
    else:
        _show(found)
    raise typer.Exit(_EXIT.get(worst, 0))


def _as_json(each: Finding) -> dict[str, str]:
    return {
        "check": each.check,
        "code": each.code,
        "severity": each.severity.label,
        "what": each.what,
        "remedy": each.remedy,
    }


def _show(found: list[Finding]) -> None:
    """The worst last, where the eye is; with what to do below each."""
    for each in sorted(found, key=lambda each: each.severity):
        style = _STYLES[each.severity]
        console.print(f"{each.severity.label:<8}", style=style, end="")
        told = each.what if each.severity is Severity.OK else f"{each.code}: {each.what}"
        say(f"{each.check}: {told}" if each.check else told)
        if each.remedy:
            say(f"        -> {each.remedy}")
