"""`mlbridge infer`: one prediction, through the queue or directly."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from bridge.cli.output import Json, errors, print_json, print_table, say
from bridge.client import BridgeClient, InferenceResult, decode_reply, encode_inputs
from bridge.errors import InvalidInputError
from bridge.inference import Inference, Request
from bridge.settings import load_settings
from bridge.tensors import Array
from bridge.triton_client import TritonClient

_SHOWN_ROWS = 8


def infer(
    model: Annotated[str, typer.Argument(help="The model's name in Triton.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE",
            help="A tensor from a .npy or .json file, rows first; repeat for more. Without it, "
            'standard input holds JSON: {"NAME": [[...]]}.',
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="A served version.")] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait.")] = 60.0,
    *,
    direct: Annotated[
        bool, typer.Option("--direct", help="Ask Triton over gRPC, past the queue.")
    ] = False,
    json: Json = False,
) -> None:
    """Predict with a model that Triton serves.

    Example: `mlbridge infer digits --input image=image.npy`

    Example: `echo '{"image": [[[0.0, ...]]]}' | mlbridge infer digits --direct --json`
    """
    data = _read(inputs)
    started = time.perf_counter()
    result = asyncio.run((_direct if direct else _queued)(model, data, version, timeout_s))
    took_ms = (time.perf_counter() - started) * 1e3
    if json:
        print_json(
            {
                "model_name": result.model_name,
                "model_version": result.model_version,
                "outputs": {name: _plain(array) for name, array in result.outputs.items()},
                "took_ms": round(took_ms, 3),
            }
        )
        return
    way = "directly" if direct else "through the queue"
    print_table(
        f"{result.model_name} version {result.model_version}, {way}, {took_ms:.0f} ms with "
        "connecting",
        ("output", "shape", "first rows"),
        [(name, list(array.shape), _excerpt(array)) for name, array in result.outputs.items()],
    )


async def _queued(
    model: str, data: dict[str, Any], version: str | None, timeout_s: float
) -> InferenceResult:
    async with BridgeClient() as client:
        return await client.infer(model, data, version=version, timeout_s=timeout_s)


async def _direct(
    model: str, data: dict[str, Any], version: str | None, timeout_s: float
) -> InferenceResult:
    async with TritonClient.from_settings(load_settings()) as triton:
        request = Request(
            model, encode_inputs(data), version, timeout_s=timeout_s, left_s=timeout_s, binary=True
        )
        reply = await Inference(triton).answer(request)
    return decode_reply(reply)


def _read(inputs: list[str] | None) -> dict[str, Any]:
    if not inputs:
        if sys.stdin is None:
            raise InvalidInputError("there is no standard input: give --input NAME=FILE")
        if sys.stdin.isatty():
            say('reading JSON from standard input, {"NAME": [[...]]}, until Ctrl-D', errors)
        return _object(sys.stdin.buffer.read(), "standard input")
    data: dict[str, Any] = {}
    for item in inputs:
        name, _, path = item.partition("=")
        if not name or not path:
            raise InvalidInputError(f"--input must be NAME=FILE, got {item!r}")
        data[name] = _tensor(Path(path))
    return data


def _tensor(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return _array(path)
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, EOFError, MemoryError) as error:  # the latter two by a broken header
        raise InvalidInputError(f"{path} holds no tensor: {error}") from None


def _array(path: Path) -> Array:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):  # np.load looks at the content, not at the name
        raise ValueError("it is an .npz archive; save one array with numpy.save")  # noqa: TRY004
    return found


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInputError(f'{where} must hold an object {{"NAME": [[...]]}}')
    return value


def _excerpt(array: Array) -> str:
    rows = array[:_SHOWN_ROWS] if array.ndim else array
    text = np.array2string(rows, precision=4, threshold=64, separator=", ")
    return text + ("\n..." if len(array) > _SHOWN_ROWS else "")


def _plain(array: Array) -> Any:
    if array.dtype.kind == "O":
        return [
            item.decode(errors="backslashreplace") if isinstance(item, bytes) else item
            for item in array.reshape(-1)
        ]
    return array.astype(np.float32).tolist() if array.dtype.kind == "V" else array.tolist()
