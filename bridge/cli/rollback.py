"""`mlbridge withdraw` and `restore`: a version out of service, and back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated

import typer

from bridge.cli.output import Json, print_json, say
from bridge.errors import TritonUnavailableError
from bridge.repository import ModelRepository
from bridge.rollback import Change, newest, put_back, take_out
from bridge.settings import load_settings
from bridge.triton_client import TritonClient

Model = Annotated[str, typer.Argument(help="The model's name in Triton.")]


def withdraw(
    model: Model,
    version: Annotated[
        int | None, typer.Option(min=1, help="One of its versions. Default: the newest.")
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Take a bad version out of service: the version before serves again. Asks first.

    Works on MODEL_REPOSITORY, which must be the one that Triton reads, and needs TRITON_ADMIN_KEY
    where Triton restricts its repository protocol. Nothing is deleted: `mlbridge restore MODEL`
    puts the version back.

    Example: `mlbridge withdraw digits`

    Example: `mlbridge withdraw digits --version 3 --yes --json`
    """
    repository = _repository()
    number = newest(repository, model, version)
    left = [it for it in repository.versions(model) if it != number]
    then = (
        f"Version {left[-1]} is the newest then."
        if left
        else "Nothing serves it then: its tasks are tried again for a while, then fail."
    )
    if not yes:
        typer.confirm(f"Withdraw version {number} of {model}? {then}", abort=True, err=True)
    _do(lambda triton: take_out(repository, triton, model, number), "is withdrawn", json=json)
    if not json:
        say(f"Put it back:  mlbridge restore {model} --version {number}")


def restore(
    model: Model,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="One that was withdrawn. Default: the newest of them."),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Put a version that was withdrawn into service again.

    Triton serves the newest version, which need not be this one.

    Example: `mlbridge restore digits`
    """
    repository = _repository()
    _do(lambda triton: put_back(repository, triton, model, version), "is back", json=json)


def _repository() -> ModelRepository:
    return ModelRepository(load_settings().model_repository)


def _do(change: Callable[[TritonClient], Awaitable[Change]], what: str, *, json: bool) -> None:
    settings = load_settings()

    async def run() -> Change:
        try:
            async with TritonClient.from_settings(settings) as triton:
                return await change(triton)
        except TritonUnavailableError as error:
            several = len(settings.triton_addresses) > 1
            without = "; leave it out of TRITON_URL to go on without it" if several else ""
            raise TritonUnavailableError(f"{error}; nothing has changed{without}") from None

    done = asyncio.run(run())
    if json:
        print_json(asdict(done))
        return
    serves = ", ".join(map(str, done.serving)) or "no version"
    say(f"Version {done.version} of {done.model} {what}. Triton serves {serves}.")
