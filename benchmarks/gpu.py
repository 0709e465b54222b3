"""`python -P benchmarks/gpu.py`: run the bridge on an NVIDIA GPU, and see that it is used.

Servers are private and vanish at the end. Exit code: 0, or 1 where something did not run on the
GPU, or 2 where there is none. An aim that is missed is reported, and changes no exit code.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))
# gRPC tells of each child process that is started beside it; none of them uses its channels.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from bridgebench.gpu.needs import require_gpu  # noqa: E402 - found by the line above
from bridgebench.gpu.presence import EXIT_NO_GPU, NoGpuError  # noqa: E402

_DOCS = _HERE.parent / "docs"
_EXIT_NOT_USED = 1
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def main(  # noqa: PLR0913, PLR0917 - a command has an argument for each of its options
    repetitions: Annotated[int, typer.Option(min=1, help="Of each figure.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each figure.")] = 2.0,
    minutes: Annotated[
        float, typer.Option(min=0, help="After which nothing more is repeated.")
    ] = 6.0,
    workers: Annotated[int, typer.Option(min=1, help="Inference worker processes.")] = max(
        1, min(4, (os.cpu_count() or 1) // 4)
    ),
    instances: Annotated[int, typer.Option(min=1, help="Of each model in Triton.")] = 2,
    out: Annotated[Path, typer.Option(help="Where results.json and results.md go.")] = _HERE.parent
    / "build"
    / "gpu-check",
    *,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="The same on processors, with small models; no figures."),
    ] = False,
    into_docs: Annotated[
        bool, typer.Option("--publish", help="Write the report to docs/gpu.md.")
    ] = False,
) -> None:
    """Run the demo on an NVIDIA GPU, see that it is used, and measure what the queue costs."""
    if rehearse and into_docs:
        raise typer.BadParameter("a rehearsal has no figures to publish")
    try:
        gpus = [] if rehearse else require_gpu()
    except NoGpuError as error:
        _say(f"{error}.\nThe same on processors, as a rehearsal: make gpu-rehearsal")
        raise typer.Exit(EXIT_NO_GPU) from None
    from bridgebench.gpu import nets, session  # noqa: PLC0415 - torch takes seconds
    from bridgebench.gpu.measuring import Plan  # noqa: PLC0415
    from bridgebench.pages import GPU  # noqa: PLC0415
    from bridgebench.session import publish  # noqa: PLC0415

    if into_docs:
        out = _DOCS / "gpu"
    if rehearse:
        small = [
            nets.cnn(nets.CnnSize(32, (1, 1), 8)),
            nets.encoder(nets.EncoderSize(1000, 16, 2, 64, 4)),
        ]
        plan = Plan(small, (1, 8), 1, 0.2, 1, gpu=False, rows_in_flight=32)
        training = {"precision": "bf16-mixed", "epochs": 1}
        _say("a rehearsal on processors: no GPU is used")
    else:
        plan = Plan(
            [nets.cnn(), nets.encoder()],
            _BATCHES,
            repetitions,
            seconds,
            instances,
            gpu=True,
            limit_s=minutes * 60,
        )
        training = {"precision": "16-mixed"}
    check = session.Check(plan, 1 if rehearse else workers, training, out.resolve())
    used = session.run_blocking(check, gpus, _say)
    if into_docs:
        publish(check.out, _DOCS / "gpu.md", GPU)
    _say(f"written to {os.path.relpath(check.out)}")
    raise typer.Exit(0 if used else _EXIT_NOT_USED)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
