"""`mlbridge`: one command for each thing that its people do."""

import errno
import logging
import os
import sys
from typing import Annotated

import typer

from bridge.cli.bench import bench
from bridge.cli.cancel import cancel, pause, resume
from bridge.cli.card import card
from bridge.cli.datasets import datasets
from bridge.cli.demo import demo
from bridge.cli.dlq import dlq
from bridge.cli.doctor import doctor
from bridge.cli.follow import follow
from bridge.cli.infer import infer
from bridge.cli.load import load
from bridge.cli.logs import logs
from bridge.cli.output import errors, print_json, say
from bridge.cli.rollback import restore, withdraw
from bridge.cli.status import models, status
from bridge.cli.train import train
from bridge.cli.training_node import training_node
from bridge.cli.up import up
from bridge.cli.worker import worker
from bridge.doctor.versions import versions
from bridge.errors import BridgeError, QueueError, TritonUnavailableError

EXIT_FAILED = 1
_UNREACHED = (QueueError, TritonUnavailableError)
_ADDRESSES = {"REDIS_URL", "TRITON_URL", "RABBITMQ_HOST"}
_ELSEWHERE = "With `mlbridge up` elsewhere: run the line here that it printed for other terminals."

app = typer.Typer(
    name="mlbridge",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,  # locals may hold passwords
    help=(
        "Queue-driven inference with taskiq, RabbitMQ and NVIDIA Triton.\n\n"
        "Start with `mlbridge demo`; run a stack of your own with `mlbridge up`."
    ),
)


def _show_versions(*, as_json: bool) -> None:
    found = versions()
    if as_json:
        print_json(found)
        return
    print(f"mlbridge {found.pop('mlbridge')}")
    for part, version in found.items():
        if version is not None:
            print(f"{part} {version}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version of each part that is installed.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: print JSON.")] = False,
) -> None:
    """Read options that stand before the command."""
    if version:
        _show_versions(as_json=json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("which command? `mlbridge --help` lists them")


app.command()(demo)
app.command()(up)
app.command()(worker)
app.command()(training_node)
app.command()(infer)
app.command()(train)
app.command()(follow)
app.command()(cancel)
app.command()(pause)
app.command()(resume)
app.command()(logs)
app.command()(status)
app.command()(doctor)
app.command()(models)
app.command()(card)
app.command()(load)
app.command()(withdraw)
app.command()(restore)
app.command()(bench)
app.add_typer(datasets, name="datasets")
app.add_typer(dlq, name="dlq")


def main() -> None:
    """Run the command line; an error of ours is one sentence and exit code 1."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in ("aio_pika", "aiormq"):  # each attempt to connect again; we say what came of it
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        app()
    except BridgeError as error:
        errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        say(str(error), errors)
        if isinstance(error, _UNREACHED) and not _ADDRESSES & os.environ.keys():
            say(f"None of {', '.join(sorted(_ADDRESSES))} is set. {_ELSEWHERE}", errors)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say(f"The disk is full: {error}", errors)
        # What could not be written is not tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
