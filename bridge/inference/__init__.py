"""From what a caller wrote to what Triton answers.

Enters: a model's name and `input_data`. Leaves: the reply as a plain dict in the caller's own
form. Knows neither queues nor gRPC nor payload stores; the Triton client and the door to the
store are handed in.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.errors import (
    InferenceTimeoutError,
    InvalidInputError,
    NoPayloadStoreError,
    TritonRefusedError,
    TritonUnavailableError,
)
from bridge.forms import Form, render_tensor
from bridge.inference.inputs import checked_version, read_inputs
from bridge.inference.outage import Outage
from bridge.names import check_name
from bridge.payloads import Payloads
from bridge.references import StoredTensor
from bridge.specs import InferReply, ModelSpec
from bridge.tensors import Tensor

_AWAY_S = 10.0  # how long a task in hand waits for Triton before it goes back to its queue
_ENDLESS_S = 7 * 86_400.0


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
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Tensor],
        *,
        version: str,
        timeout_s: float,
        alone: bool,
    ) -> Awaitable[InferReply]:
        """Answer within `timeout_s` seconds, `alone`: not in one batch with others."""
        ...


@dataclass(slots=True)  # not frozen: one or more are made for each message
class Request:
    """What one caller wants. Nothing of it is checked but the times."""

    model_id: Any
    input_data: Any
    """For each input name a nested list, or `{"datatype", "shape", "data" | "raw" | "ref"}`."""
    version: Any
    """A served version's number; None for the newest."""
    timeout_s: float
    """Seconds that fetching the inputs and Triton may take, once Triton is there."""
    left_s: float = _ENDLESS_S
    """Seconds until nobody wants the answer any more."""
    alone: bool = False
    """It may have crashed the model before: nobody else shall be in its batch."""
    binary: bool = False
    """The caller's message format carries bytes."""
    takes_references: bool = False
    """The caller can read large outputs in the store, even if no input was a reference."""


class Inference:
    """Answers callers, with one Triton, one way to send and one payload store."""

    def __init__(
        self,
        triton: Triton,
        *,
        send: Send | None = None,
        payloads: Payloads | None = None,
        outage: Outage | None = None,
    ) -> None:
        """Nothing is asked before `answer`.

        Args:
            triton: where models are served.
            send: how inputs reach Triton; by default as a request of their own.
            payloads: where references lead; None: they are refused.
            outage: tells when a Triton that is away is back; None: it is not waited for.
        """
        self._triton = triton
        self._send = send
        self._payloads = payloads
        self._outage = outage

    async def answer(self, request: Request) -> dict[str, Any]:
        """Check the input against the model, run it, and write the outputs as the inputs came.

        Returns:
            `{"model_name", "model_version", "outputs": {name: tensor}}`.

        Raises:
            InvalidInputError: the subclass, and the text, name the input and what was expected.
            PayloadError: a payload cannot be had, or not be kept.
            TritonError: the model is unknown, or Triton failed.
        """
        name = check_name("model_id", request.model_id)
        version = checked_version(request.version)
        reply, form, sent_references = await self._once_there(request, name, version)
        stored: dict[str, StoredTensor] = {}
        if self._payloads is not None and (request.takes_references or sent_references):
            stored = await _kept(reply.outputs, self._payloads)
        return {
            "model_name": reply.model_name,
            "model_version": reply.model_version,
            "outputs": {
                output: stored[output].written()
                if output in stored
                else render_tensor(tensor, form, binary=request.binary)
                for output, tensor in reply.outputs.items()
            },
        }

    async def _once_there(
        self, request: Request, name: str, version: str
    ) -> tuple[InferReply, Form, bool]:
        """Attempt; again each time that Triton was away and is back, but not for long.

        Who has waited for some seconds gives the task back to the queue: there another worker,
        with another Triton, can take it.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + request.left_s
        giving_back = loop.time() + _AWAY_S
        while True:
            deadline = min(end, loop.time() + request.timeout_s)
            try:
                return await self._attempt(request, name, version, deadline)
            except TritonUnavailableError as error:
                away = str(error)  # itself, with its frames, would hold the request, and itself
            except InferenceTimeoutError as error:
                if not await self._silent(end):
                    raise _late(error, request, its_deadline=deadline >= end) from None
                away = f"Triton did not answer for {name!r}, nor does it now"
                giving_back = loop.time() + _AWAY_S
            if await self._back(min(end, giving_back), away):
                continue
            if loop.time() < end:
                raise TritonUnavailableError(away)
            raise InferenceTimeoutError("the deadline passed while Triton was away")

    async def _silent(self, end: float) -> bool:
        """Whether a try came to its limit because Triton is away, which is not the task's fault."""
        if self._outage is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):  # at the end of the caller's time nobody asks
                return await self._outage.silent()
        return False

    async def _back(self, until: float, away: str) -> bool:
        """Wait for a Triton that is away; whether it was back in time, by the loop's clock."""
        if self._outage is None or asyncio.get_running_loop().time() >= until:
            return False
        try:
            async with asyncio.timeout_at(until):
                await self._outage.over(away)
        except TimeoutError:
            return False
        return True

    async def _attempt(
        self, request: Request, name: str, version: str, deadline: float
    ) -> tuple[InferReply, Form, bool]:
        """The cached model spec may be older than the model that Triton serves.

        That can only show as a mismatch, so a mismatch, and nothing else, makes us ask Triton
        again before it is believed.
        """

        async def ask(tensors: Mapping[str, Tensor]) -> InferReply:
            left_s = max(deadline - asyncio.get_running_loop().time(), 0.001)
            if self._send is None:
                return await self._triton.infer(name, tensors, version=version, timeout_s=left_s)
            return await self._send(
                spec, tensors, version=version, timeout_s=left_s, alone=request.alone
            )

        spec = await self._triton.model_spec(name, version)
        try:
            return await self._run(spec, request.input_data, deadline, ask)
        except (InvalidInputError, TritonRefusedError):
            newest = await self._triton.model_spec(name, version, fresh=True)
            if newest == spec:
                raise
            spec = newest
            return await self._run(spec, request.input_data, deadline, ask)

    async def _run(
        self,
        spec: ModelSpec,
        input_data: Any,
        deadline: float,
        ask: Callable[[Mapping[str, Tensor]], Awaitable[InferReply]],
    ) -> tuple[InferReply, Form, bool]:
        inputs, form = read_inputs(spec, input_data)
        tensors = {name: it for name, it in inputs.items() if isinstance(it, Tensor)}
        if len(tensors) == len(inputs):
            return await ask(tensors), form, False
        stored = {name: it for name, it in inputs.items() if isinstance(it, StoredTensor)}
        async with _fetched(stored, self._payloads, deadline) as fetched:
            return await ask({**tensors, **fetched}), form, True


def _late(
    error: InferenceTimeoutError, request: Request, *, its_deadline: bool
) -> InferenceTimeoutError:
    """Which of the two times was over that bound a try."""
    told = (
        "the deadline passed"
        if its_deadline
        else f"no answer within the time of one try, {request.timeout_s:g} s (label `timeout`, "
        "else BRIDGE_INFER_TIMEOUT_S)"
    )
    return InferenceTimeoutError(f"{told}: {error}")


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
                "the inputs were not fetched from the payload store in time"
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
