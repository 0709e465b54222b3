"""Tasks of the inference queue: predict, and hand training on to where torch is."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

from taskiq import (
    Context,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
    TaskiqState,
)
from taskiq.exceptions import NoResultError
from taskiq_redis.exceptions import ResultIsMissingError

from bridge import log_lines
from bridge.batcher import Batcher, Send
from bridge.broker import broker, settings, training_broker
from bridge.channels import until_answered
from bridge.courtesy import Watch
from bridge.crashes import report, turn_of_suspect
from bridge.deliveries import Turn
from bridge.errors import InvalidInputError, PayloadMissingError
from bridge.inference import Inference, Request
from bridge.inference.outage import Outage
from bridge.labels import DELAY, timeout_of
from bridge.messages import is_binary
from bridge.names import check_name
from bridge.orphans import leave_none, stop_with_main_process
from bridge.payloads import TAKES_REFERENCES, Payloads, open_payloads
from bridge.queues.reach import using_redis
from bridge.references import own_keys
from bridge.tasks.health import Watched, answering
from bridge.triton_client import TritonClient

if broker.is_worker_process:
    log_lines.write(settings.bridge_log_format, settings.secrets)

_COLLECT_EVERY_S = 5.0
_LETTING_GO_S = 0.01  # by then a cancelled task has let go of its rows

_telling: set[asyncio.Task[None]] = set()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    """One Triton client, batcher and payload store for the process, made after taskiq's fork."""
    stop_with_main_process()
    leave_none()
    exits = state.exits = AsyncExitStack()
    exits.callback(asyncio.create_task(_collect_now_and_then()).cancel)
    triton = TritonClient.from_settings(settings)
    exits.push_async_callback(triton.close)
    outage = Outage(f"Triton at {settings.triton_url}", triton.ready)
    exits.push_async_callback(outage.close)
    send: Send = triton.infer
    if settings.bridge_shared_gpu is not None and settings.bridge_latency_target_s is not None:
        watch = Watch(
            broker.results.redis, settings.bridge_shared_gpu, settings.bridge_latency_target_s
        )
        send = watch.timed(send)
        exits.callback(asyncio.create_task(watch.run()).cancel)
    batcher = Batcher(send, settings.bridge_batch_delay_us)
    payloads = state.payloads = open_payloads(settings)
    if payloads is not None:
        exits.push_async_callback(payloads.close)
        exits.callback(asyncio.create_task(payloads.keep_swept()).cancel)
    state.inference = Inference(triton, send=batcher.submit, payloads=payloads, outage=outage)
    broker.appetite = lambda: 0 if outage.began_at is not None else batcher.appetite() or None
    triton.on_crash(_tell_of_crash)
    loop = asyncio.get_running_loop()

    def let_go(_task_id: str, _now: bool) -> None:  # noqa: FBT001 - what listeners get
        loop.call_later(_LETTING_GO_S, batcher.drop_abandoned)

    broker.intake.cancelled.listeners.append(let_go)
    await training_broker.startup()
    exits.push_async_callback(training_broker.shutdown)
    watched = Watched([triton, batcher, payloads], triton.knows)
    watched.subjects["ml_inference"], watched.backlog = _subject, True
    watched.looks.append(lambda: _loads(batcher))
    await exits.enter_async_context(answering(broker, triton, watched))


def _subject(message: TaskiqMessage, value: Any) -> tuple[Any, Any]:
    """What a message and its result call model and version."""
    if isinstance(value, dict):
        return value.get("model_name"), value.get("model_version")
    return message.args[0] if message.args else message.kwargs.get("model_id"), None


def _loads(batcher: Batcher) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for model, (out, most) in batcher.loads().items():
        yield "bridge_requests_in_flight", (model,), float(out)
        yield "bridge_requests_limit", (model,), float(most)


def _tell_of_crash(model: str) -> None:
    task = asyncio.create_task(report(broker.results.redis, model))
    _telling.add(task)
    task.add_done_callback(_telling.discard)


async def _collect_now_and_then() -> None:
    """Let Python's cycle collector look at messages, not at all that was imported, and less often.

    A message makes a few hundred objects and no cycles; at the default threshold each few of
    them set the collector off, and every tenth time it went through the older ones as well. What
    does make cycles, such as an error that is kept with its traceback, may hold large tensors, and
    counts as a few objects: all is looked at every few seconds, which takes milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    while True:
        await asyncio.sleep(_COLLECT_EVERY_S)
        gc.collect()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def disconnect(state: TaskiqState) -> None:
    """Close what `connect` opened, also if it did not come to its end."""
    if "exits" in state:
        await state.exits.aclose()


@broker.task("ml_inference")
async def ml_inference(
    model_id: str,
    input_data: dict[str, Any],
    version: str | None = None,
    *,
    context: Annotated[Context, TaskiqDepends()],
) -> dict[str, Any]:
    """Predict with a model that Triton serves.

    Args:
        model_id: the model's name in Triton.
        input_data: for each input a nested list, or `{"datatype", "shape", "data" | "raw" |
            "ref"}`; the first dimension is the batch.
        version: a served version; None for the newest.
        context: taskiq's own, never sent.

    Returns:
        `{"model_name", "model_version", "outputs": {name: tensor}}`, the tensors written as the
        inputs came.

    Raises:
        BridgeError: the subclass says what is wrong with model or input.
    """
    return await _predict(context.message, Turn(), model_id, input_data, version)


async def _predict(
    message: TaskiqMessage, turn: Turn, model_id: Any, input_data: Any, version: Any
) -> dict[str, Any]:
    suspect = turn.crashes > 0
    request = Request(
        model_id,
        input_data,
        version,
        timeout_s=timeout_of(message.labels) or settings.bridge_infer_timeout_s,
        left_s=turn.left_s,
        alone=suspect,
        binary=is_binary(message.labels),
        takes_references=TAKES_REFERENCES in message.labels,
    )
    if not suspect:
        return await _answered(message, request)
    async with turn_of_suspect(broker.results.redis, check_name("model_id", model_id)):
        return await _answered(message, request)


async def _answered(message: TaskiqMessage, request: Request) -> dict[str, Any]:
    inference: Inference = broker.state.inference
    try:
        return await inference.answer(request)
    except PayloadMissingError:
        before = await _result_before(message.task_id)
        if before is None:
            raise
        if before.error is not None:
            raise before.error from None
        answer: dict[str, Any] = before.return_value
        return answer


async def _result_before(task_id: str) -> TaskiqResult[Any] | None:
    """The result that this task has already, if any.

    A task that was delivered twice at once has lost its inputs as soon as the first to end has
    saved its result. The second must not put an error in its place, so that it waits for Redis.
    """
    try:
        return await until_answered(
            lambda: broker.result_backend.get_result(task_id), f"for the result of {task_id}"
        )
    except ResultIsMissingError:
        return None


class DiscardInputs(TaskiqMiddleware):
    """Deletes the payloads that belonged to a task alone, once its result is saved."""

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:  # noqa: ARG002 - taskiq's
        """Called after the result is saved and before the message is acknowledged.

        Should the worker end in between, the message is delivered again, and acknowledged
        because its result exists: nobody misses the payloads.
        """
        payloads: Payloads | None = broker.state.get("payloads")
        if payloads is not None and message.task_name == "ml_inference":
            try:
                _, inputs, _ = _arguments(*message.args, **message.kwargs)
            except TypeError:
                return
            payloads.discard(own_keys(inputs))


if settings.bridge_payload_url is not None:
    broker.add_middlewares(DiscardInputs())


async def _ml_inference(message: TaskiqMessage, turn: Turn) -> dict[str, Any]:
    """`ml_inference` without taskiq's receiver between queue and batch."""
    try:
        arguments = _arguments(*message.args, **message.kwargs)
    except TypeError as error:
        raise InvalidInputError(
            "ml_inference takes model_id, input_data and optionally version: it"
            + str(error).partition("()")[2]
        ) from None
    return await _predict(message, turn, *arguments)


def _arguments(model_id: Any, input_data: Any, version: Any = None) -> tuple[Any, Any, Any]:
    """What a caller may send, in order: all of `ml_inference`'s but `context`."""
    return model_id, input_data, version


broker.intake.shortcuts["ml_inference"] = _ml_inference


@broker.task("train_model")
async def hand_on_train_model(*_args: Any, **_kwargs: Any) -> None:
    """Hand a training task that came here on to the training queue, id and labels intact.

    It is acknowledged here after RabbitMQ confirmed it there; its result is written there.
    """
    raise NotImplementedError  # the intake runs `_hand_on` in its place


async def _hand_on(message: TaskiqMessage, _turn: Turn) -> None:
    """Below taskiq's receiver, so that it is tried again where the queue takes nothing for a while.

    Raises:
        QueueError: it did not take the task.
        NoResultError: always else; taskiq's way to end a task without a result.
    """
    labels = {name: it for name, it in message.labels.items() if name != DELAY}  # it has passed
    written = training_broker.formatter.dumps(message)
    with using_redis(settings.redis_shown):  # where it is the queue; RabbitMQ's errors are ours
        await training_broker.kick(written.model_copy(update={"labels": labels}))
    raise NoResultError


broker.intake.shortcuts["train_model"] = _hand_on
