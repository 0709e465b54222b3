"""Tasks of the inference queue: predict, and hand training on to where torch is."""

import inspect
from typing import Annotated, Any

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqMessage, TaskiqState
from taskiq.exceptions import NoResultError

from bridge.batcher import Batcher
from bridge.broker import broker, settings, training_broker
from bridge.errors import InvalidInputError
from bridge.inference import infer
from bridge.messages import is_binary
from bridge.triton_client import TritonClient


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    """One Triton client and one batcher for the process, made after taskiq's fork."""
    state.triton = TritonClient.from_settings(settings)
    state.batcher = Batcher(state.triton.infer)
    await training_broker.startup()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def disconnect(state: TaskiqState) -> None:
    """Close what `connect` opened."""
    await state.triton.close()
    await training_broker.shutdown()


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
        input_data: for each input a nested list, or `{"datatype", "shape", "data" | "raw"}`; the
            first dimension is the batch.
        version: a served version; None for the newest.
        context: taskiq's own, never sent.

    Returns:
        `{"model_name", "model_version", "outputs": {name: tensor}}`, the tensors written as the
        inputs came.

    Raises:
        BridgeError: the subclass says what is wrong with model or input.
    """
    return await infer(
        context.state.triton,
        model_id,
        input_data,
        version=version,
        timeout_s=settings.bridge_infer_timeout_s,
        binary=is_binary(context.message.labels),
        send=context.state.batcher.submit,
    )


async def _ml_inference(message: TaskiqMessage) -> dict[str, Any]:
    """`ml_inference` without taskiq's receiver between queue and batch."""
    context = Context(message, broker)
    try:
        bound = _ARGUMENTS.bind(*message.args, **message.kwargs)
    except TypeError as error:
        raise InvalidInputError(
            f"ml_inference takes model_id, input_data and optionally version: {error}"
        ) from None
    return await ml_inference.original_func(*bound.args, **bound.kwargs, context=context)


# What a caller may send: all but `context`.
_ARGUMENTS = inspect.Signature(
    list(inspect.signature(ml_inference.original_func).parameters.values())[:-1]
)
broker.intake.shortcuts["ml_inference"] = _ml_inference


@broker.task("train_model")
async def hand_on_train_model(
    *_args: Any, context: Annotated[Context, TaskiqDepends()], **_kwargs: Any
) -> None:
    """Hand a training task that came here on to the training queue, id and labels intact.

    It is acknowledged here after RabbitMQ confirmed it there; its result is written there.

    Raises:
        NoResultError: always; taskiq's way to end a task without a result.
    """
    await training_broker.kick(training_broker.formatter.dumps(context.message))
    raise NoResultError
