"""From what a caller wrote to what Triton answers.

Enters: a model's name and `input_data`. Leaves: the reply as a plain dict in the caller's own
form. Knows neither queues nor gRPC nor payload stores; the Triton client and the door to the
store are handed in.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar

from bridge.errors import (
    EmptyBatchError,
    InferenceTimeoutError,
    InvalidInputError,
    MalformedTensorError,
    MissingInputError,
    NoPayloadStoreError,
    ShapeError,
    SurplusInputError,
    TooManyRowsError,
    TritonRefusedError,
    TritonUnavailableError,
)
from bridge.forms import Form, parse_tensor, render_tensor
from bridge.names import check_name
from bridge.payloads import Payloads
from bridge.references import StoredTensor, is_stored, parse_stored
from bridge.tensors import Tensor, TensorSpec
from bridge.triton_client import InferReply, ModelSpec

Answer = TypeVar("Answer")

_AGAIN_S, _AGAIN_MOST_S = 0.1, 1.0
_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)


class Triton(Protocol):
    """The part of `TritonClient` that inference needs."""

    async def model_spec(self, name: str, version: str = "", *, fresh: bool = False) -> ModelSpec:
        """What the model takes and gives."""
        ...

    async def infer(
        self, name: str, inputs: Mapping[str, Tensor], *, version: str = "", timeout_s: float
    ) -> InferReply:
        """Run one request."""
        ...


class Send(Protocol):
    """Runs one caller's checked inputs: `Batcher.submit` is one."""

    def __call__(
        self, spec: ModelSpec, inputs: Mapping[str, Tensor], *, version: str, timeout_s: float
    ) -> Awaitable[InferReply]:
        """Answer within `timeout_s` seconds."""
        ...


async def infer(  # noqa: PLR0913 - each is one thing that a caller may set
    triton: Triton,
    model_id: Any,
    input_data: Any,
    *,
    version: Any = None,
    timeout_s: float,
    binary: bool,
    send: Send | None = None,
    payloads: Payloads | None = None,
    takes_references: bool = False,
    patient: bool = False,
) -> dict[str, Any]:
    """Check the input against the model, run it, and write the outputs as the inputs came.

    The cached model spec may be older than the model that Triton serves. That can only show as
    a mismatch, so a mismatch, and nothing else, makes us ask Triton again before it is believed.

    Args:
        triton: where models are served.
        model_id: the model's name in Triton.
        input_data: a tensor for each input name: a nested list, or
            `{"datatype", "shape", "data" | "raw" | "ref"}`.
        version: a served version's number; None for the newest.
        timeout_s: seconds that fetching the inputs and Triton may take.
        binary: the caller's message format carries bytes.
        send: how the inputs reach Triton; by default as a request of their own.
        payloads: where references lead; None: they are refused.
        takes_references: the caller can read large outputs there, even if no input was a
            reference.
        patient: wait for a Triton that is away, as long as `timeout_s` allows.

    Returns:
        `{"model_name", "model_version", "outputs": {name: tensor}}`.

    Raises:
        InvalidInputError: the subclass, and the text, name the input and what was expected.
        PayloadError: a payload cannot be had, or not be kept.
        TritonError: the model is unknown, or Triton failed.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    name, chosen = check_name("model_id", model_id), _checked_version(version)

    async def ask(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> InferReply:
        left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
        if send is None:
            return await triton.infer(name, tensors, version=chosen, timeout_s=left_s)
        return await send(spec, tensors, version=chosen, timeout_s=left_s)

    async def run(spec: ModelSpec) -> tuple[InferReply, Form, bool]:
        inputs, form = read_inputs(spec, input_data)
        tensors = {name: it for name, it in inputs.items() if isinstance(it, Tensor)}
        if len(tensors) == len(inputs):
            return await ask(spec, tensors), form, False
        stored = {name: it for name, it in inputs.items() if isinstance(it, StoredTensor)}
        async with _fetched(stored, payloads, deadline) as fetched:
            return await ask(spec, {**tensors, **fetched}), form, True

    async def attempt() -> tuple[InferReply, Form, bool]:
        spec = await triton.model_spec(name, chosen)
        try:
            return await run(spec)
        except (InvalidInputError, TritonRefusedError):
            newest = await triton.model_spec(name, chosen, fresh=True)
            if newest == spec:
                raise
            return await run(newest)

    reply, form, sent_references = await _until(deadline if patient else 0.0, attempt)
    stored: dict[str, StoredTensor] = {}
    if payloads is not None and (takes_references or sent_references):
        stored = await _kept(reply.outputs, payloads)
    return {
        "model_name": reply.model_name,
        "model_version": reply.model_version,
        "outputs": {
            output: stored[output].written()
            if output in stored
            else render_tensor(tensor, form, binary=binary)
            for output, tensor in reply.outputs.items()
        },
    }


async def _until(deadline: float, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
    """Attempt again while Triton is away, until `deadline` by the loop's clock.

    Meanwhile the message stays in hand, unacknowledged: with enough of them in hand the worker
    takes no more from the queue, and goes on by itself when Triton is back.
    """
    pause_s = _AGAIN_S
    while True:
        try:
            return await attempt()
        except TritonUnavailableError:
            if asyncio.get_running_loop().time() + pause_s > deadline:
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _AGAIN_MOST_S)


@asynccontextmanager
async def _fetched(
    stored: Mapping[str, StoredTensor], payloads: Payloads | None, deadline: float
) -> AsyncIterator[Mapping[str, Tensor]]:
    """The bytes of inputs that lie in the payload store, held as long as the block lasts."""
    if payloads is None:
        raise NoPayloadStoreError(
            f"input {next(iter(stored))!r} is a reference, and this worker has no payload store: "
            "set its BRIDGE_PAYLOAD_URL to the one that the caller used"
        )
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout_at(deadline):
                fetched = await stack.enter_async_context(payloads.held(stored))
        except TimeoutError:
            raise InferenceTimeoutError(
                "the deadline passed before the inputs were fetched from the payload store"
            ) from None
        yield fetched


async def _kept(outputs: Mapping[str, Tensor], payloads: Payloads) -> dict[str, StoredTensor]:
    """Put the large ones of `outputs` into the store."""
    large = {
        name: (tensor.datatype, tensor.shape, tensor.data)
        for name, tensor in outputs.items()
        if len(tensor.data) > payloads.threshold
    }
    return await payloads.put("output", large) if large else {}


def read_inputs(spec: ModelSpec, input_data: Any) -> tuple[dict[str, Tensor | StoredTensor], Form]:
    """Check `input_data` against `spec`. References are checked before anybody fetches them.

    Returns:
        The tensors by input name, and the form in which they were written: the most compact one
        where a caller mixes them. What is too small for a reference is raw to who sends them.

    Raises:
        InvalidInputError: one of its subclasses.
    """
    if not isinstance(input_data, dict):
        raise MalformedTensorError(
            f"input_data must be an object with a tensor for each input of {spec.name!r} "
            f"({_listed(spec.inputs)}), got {type(input_data).__name__}"
        )
    surplus = sorted(str(key) for key in input_data.keys() - spec.inputs.keys())
    if surplus:
        raise SurplusInputError(
            f"model {spec.name!r} has no input {surplus[0][:128]!r}; it takes "
            f"{_listed(spec.inputs)}"
        )
    tensors: dict[str, Tensor | StoredTensor] = {}
    forms: set[Form] = set()
    for name, wanted in spec.inputs.items():
        if name in input_data:
            tensors[name], form = _read_input(spec, input_data[name], wanted)
            forms.add(form)
        elif not wanted.optional:
            raise MissingInputError(
                f"input {name!r} of model {spec.name!r} is missing; it takes {_listed(spec.inputs)}"
            )
    _check_rows(spec, tensors)
    return tensors, next((form for form in (Form.RAW, Form.DATA) if form in forms), Form.LISTS)


def _read_input(
    spec: ModelSpec, value: Any, wanted: TensorSpec
) -> tuple[Tensor | StoredTensor, Form]:
    if is_stored(value):
        stored = parse_stored(value, wanted)
        _check_shape(spec, wanted, stored.shape)
        return stored, Form.RAW
    return parse_tensor(value, wanted, lambda shape: _check_shape(spec, wanted, shape))


def _check_shape(spec: ModelSpec, wanted: TensorSpec, got: tuple[int, ...]) -> None:
    fits = len(got) == len(wanted.shape) and all(
        size in (-1, actual) for size, actual in zip(wanted.shape, got, strict=True)
    )
    if fits:
        if spec.max_batch_size and got[0] > spec.max_batch_size:
            raise TooManyRowsError(
                f"input {wanted.name!r} has {got[0]} rows; model {spec.name!r} takes at most "
                f"{spec.max_batch_size} in one request: send them in several tasks"
            )
        return
    hint = ""
    if spec.max_batch_size and len(got) == len(wanted.shape) - 1:
        hint = "; the first dimension is the batch: wrap a single row in a list"
    raise ShapeError(
        f"input {wanted.name!r}: model {spec.name!r} takes shape {list(wanted.shape)}, got "
        f"{list(got)}{hint}"
    )


def _check_rows(spec: ModelSpec, tensors: Mapping[str, Tensor | StoredTensor]) -> None:
    if not spec.max_batch_size:
        return
    rows = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        raise ShapeError(f"inputs of one request must have the same number of rows, got {rows}")
    for name, count in rows.items():
        if count == 0:
            raise EmptyBatchError(f"input {name!r} has no row; send at least one")


def _checked_version(version: Any) -> str:
    if version is None or version == "":
        return ""
    text = str(version)
    if isinstance(version, bool) or not _VERSION.fullmatch(text):
        raise InvalidInputError(
            f"version must be a positive number such as 3, got {type(version).__name__}"
        )
    return text


def _listed(specs: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs.values())
