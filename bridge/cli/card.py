"""`mlbridge card`: what a published version is, how good, and how to call it."""

from typing import Annotated

import typer
from rich.markdown import Markdown

from bridge.cli.output import Json, console, print_json
from bridge.errors import UnknownModelError
from bridge.repository import ModelRepository, render_card
from bridge.rollback import newest
from bridge.settings import load_settings


def card(
    model: Annotated[str, typer.Argument(help="The model's name in Triton.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="One of its versions. Default: the newest.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show a version's card: task, data, metrics, parity, libraries, how to call it.

    Reads MODEL_REPOSITORY. Where the output is no terminal it is Markdown, as in `card.md`.

    Example: `mlbridge card digits`

    Example: `mlbridge card digits --version 2 --json`
    """
    repository = ModelRepository(load_settings().model_repository)
    if version is None:
        version = newest(repository, model, None)
    found = repository.card(model, version)
    if found is None:
        raise UnknownModelError(
            f"version {version} of model {model!r} has no card: it was put into the repository by "
            f"hand"
        )
    if json:
        print_json(found)
        return
    try:
        text = render_card(model, found)
    except (AttributeError, KeyError, TypeError) as error:
        raise UnknownModelError(
            f"the card of version {version} of model {model!r} was not written by a training; "
            f"`--json` shows it as it is"
        ) from error
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        print(text, end="")
