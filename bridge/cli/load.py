"""`mlbridge load`: what somebody laid into the model repository, or changed there, is served."""

import asyncio
from typing import Annotated

import typer

from bridge.cli.output import Json, print_json, say
from bridge.errors import ModelLoadError
from bridge.names import check_name
from bridge.settings import load_settings
from bridge.triton_client import TritonClient

_NOT_FOUND = "failed to poll from model repository"


def load(
    model: Annotated[str, typer.Argument(help="The model's name: its folder's.")],
    *,
    json: Json = False,
) -> None:
    """Have Triton load a model, or load it again: laid by hand, or with another config.pbtxt.

    Trained models need no such thing. What Triton cannot load changes nothing: it serves on what it
    served. Needs TRITON_ADMIN_KEY where Triton restricts its repository protocol.

    Example: `mlbridge load digits`
    """
    serving = asyncio.run(_load(check_name("model_id", model)))
    if json:
        print_json({"model": model, "serving": serving})
    else:
        say(f"Triton serves {', '.join(map(str, serving)) or 'no version'} of {model}.")


async def _load(model: str) -> list[int]:
    """The versions that are served then."""
    async with TritonClient.from_settings(load_settings()) as triton:
        try:
            await triton.load(model)
        except ModelLoadError as error:
            if _NOT_FOUND not in str(error):
                raise
            raise ModelLoadError(
                f"{error}: it looks there for {model}/config.pbtxt and {model}/1/model.onnx, and "
                "its log says what is wrong with them"
            ) from None
        index = await triton.index()
        return sorted({int(it.version) for it in index if it.name == model and it.ready})
