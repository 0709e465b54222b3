"""`python -P benchmarks/run.py [SCENARIO ...]`: measure the bridge beside its peers.

Servers are private and vanish at the end. Without a scenario all but `variants` run.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))
# gRPC tells of each child process that is started beside it; none of them uses its channels.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from bridgebench.scenarios import SCENARIOS, USUAL, Options  # noqa: E402 - found by the line above
from bridgebench.session import publish, run_scenarios  # noqa: E402

_DOCS = _HERE.parent / "docs"


def main(  # noqa: PLR0913 - a command has an argument for each of its options
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(help=f"Some of: {', '.join(SCENARIOS)}. Default: {', '.join(USUAL)}."),
    ] = None,
    repetitions: Annotated[
        int | None, typer.Option(min=1, help="Of each competitor. Default: 5, or 1 with --quick.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where results.json, results.md and plots go.")
    ] = _HERE.parent / "build" / "benchmarks",
    only: Annotated[
        list[str] | None,
        typer.Option(help="A competitor of `drain`, by its key; repeat for more. Default: all."),
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it works; figures mean nothing.")
    ] = False,
    into_docs: Annotated[
        bool, typer.Option("--publish", help="Write the report to docs/benchmarks.md.")
    ] = False,
) -> None:
    """Measure the bridge beside its peers; writes JSON, a Markdown table and plots."""
    unknown = set(scenarios or ()) - set(SCENARIOS)
    if unknown:
        raise typer.BadParameter(f"no scenario is called {', '.join(sorted(unknown))}")
    if into_docs:
        out = _DOCS / "benchmarks"
    options = Options(
        out=out.resolve(),
        repetitions=repetitions or (1 if quick else 5),
        quick=quick,
        only=frozenset(only or ()),
    )
    uvloop.run(run_scenarios({name: SCENARIOS[name] for name in scenarios or USUAL}, options, _say))
    if into_docs:
        publish(options.out, _DOCS / "benchmarks.md")
    _say(f"written to {os.path.relpath(options.out)}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
