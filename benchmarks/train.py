"""`python -P benchmarks/train.py [SCENARIO ...]`: training by the bridge, and by hand.

Servers are private and vanish at the end. Without a scenario all of them run.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))
# gRPC tells of each child process that is started beside it; none of them uses its channels.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from bridgebench.pages import TRAINING  # noqa: E402 - found by the line above
from bridgebench.scenarios import Options  # noqa: E402
from bridgebench.session import publish, run_scenarios  # noqa: E402
from bridgebench.training import NAMES, PACKAGES, Sizes, scenarios  # noqa: E402

_DOCS = _HERE.parent / "docs"
_FULL = Sizes()
_QUICK = Sizes(digits_epochs=4, synthetic_rows=600, short_slice_s=0.3)

Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs of this job.")]


def main(  # noqa: PLR0913, PLR0917 - a command has an argument for each of its options
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(NAMES)}. Default: all.")
    ] = None,
    repetitions: Annotated[
        int | None, typer.Option(min=1, help="Rounds, and kills. Default: 5, or 1 with --quick.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where results.json and results.md go.")] = _HERE.parent
    / "build"
    / "training-benchmarks",
    digits_epochs: Epochs = None,
    synthetic_epochs: Epochs = None,
    short_slice_s: Annotated[
        float | None, typer.Option(min=0.1, help="Length of the short slices.")
    ] = None,
    lease_s: Annotated[
        float | None, typer.Option(min=1, help="BRIDGE_TRAINING_LEASE_S where workers are killed.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, in both ways.")] = _FULL.threads,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that it works; figures mean nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON; all else to stderr.")
    ] = False,
    into_docs: Annotated[
        bool, typer.Option("--publish", help="Write the report to docs/training-benchmarks.md.")
    ] = False,
) -> None:
    """Measure overhead, recovery and going live; writes JSON and Markdown tables."""
    unknown = set(names or ()) - set(NAMES)
    if unknown:
        raise typer.BadParameter(f"no scenario is called {', '.join(sorted(unknown))}")
    if into_docs:
        out = _DOCS / "training-benchmarks"
    usual = _QUICK if quick else _FULL
    sizes = Sizes(
        digits_epochs or usual.digits_epochs,
        usual.synthetic_rows,
        synthetic_epochs or usual.synthetic_epochs,
        short_slice_s or usual.short_slice_s,
        lease_s or usual.lease_s,
        threads,
    )
    options = Options(out.resolve(), repetitions or (1 if quick else 5), quick=quick)
    known = scenarios(sizes)
    chosen = {name: known[name] for name in names or NAMES}

    def say(text: str) -> None:
        print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    results = uvloop.run(run_scenarios(chosen, options, say, packages=PACKAGES))
    if as_json:
        print(orjson.dumps(results, option=orjson.OPT_INDENT_2).decode())
    else:
        print((options.out / "results.md").read_text())
    if into_docs:
        publish(options.out, _DOCS / "training-benchmarks.md", TRAINING)
    say(f"written to {os.path.relpath(options.out)}")


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
