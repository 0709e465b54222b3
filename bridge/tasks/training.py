"""The task of the training queue: train a model and make it live. Thin; torch is elsewhere."""

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Annotated, Any

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq.depends.progress_tracker import TaskProgress, TaskState

from bridge.broker import settings, training_broker
from bridge.crashes import repair
from bridge.errors import InvalidTrainingRequestError, TaskCancelledError
from bridge.tasks.health import answering
from bridge.training.request import parse_request
from bridge.training.run import train
from bridge.triton_client import TritonClient

log = logging.getLogger(__name__)

_running: dict[str, "asyncio.Task[Any]"] = {}


@training_broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    """One Triton client for the life of the process, made after taskiq's fork."""
    exits = state.exits = AsyncExitStack()
    triton = state.triton = TritonClient.from_settings(settings)
    exits.push_async_callback(triton.close)
    training_broker.intake.cancelled.listeners.append(_stop)
    exits.callback(asyncio.create_task(repair(training_broker.results.redis, triton)).cancel)
    await exits.enter_async_context(answering(training_broker, triton))


def _stop(task_id: str) -> None:
    """Somebody cancelled a task: if it runs here, its process is killed."""
    if task_id in _running:
        _running[task_id].cancel()


@training_broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def disconnect(state: TaskiqState) -> None:
    """Close what `connect` opened, also if it did not come to its end."""
    if "exits" in state:
        await state.exits.aclose()


@training_broker.task("train_model")
async def train_model(
    dataset_id: Any = None,
    model_config: Any = None,
    hyperparameters: Any = None,
    *surplus: Any,
    context: Annotated[Context, TaskiqDepends()],
) -> dict[str, Any]:
    """Train a model, and have Triton serve it.

    What is missing or wrong is told by the request's own checks.

    Args:
        dataset_id: a dataset under `DATASET_ROOT`.
        model_config: see `bridge.training.request.ModelConfig`.
        hyperparameters: see `bridge.training.request.Hyperparameters`; `{}` for the defaults.
        surplus: there is nothing more to say.
        context: taskiq's own, never sent.

    Returns:
        What `bridge.training.run.train` returns: model name and version, metrics, parity,
        inputs, outputs, labels.

    Raises:
        BridgeError: the subclass says what is wrong with the request, the data or the model.
    """
    if surplus:
        raise InvalidTrainingRequestError(
            "train_model takes dataset_id, model_config and hyperparameters, got "
            f"{3 + len(surplus)} arguments"
        )
    request = parse_request(dataset_id, model_config, hyperparameters, settings)
    task_id = context.message.task_id

    async def save(progress: dict[str, Any]) -> None:
        try:
            await context.broker.result_backend.set_progress(
                task_id, TaskProgress(state=TaskState.STARTED, meta=progress)
            )
        except Exception as error:  # noqa: BLE001  (hours of training outweigh one record)
            log.warning("progress of task %s was not saved: %s", task_id, error)

    running = asyncio.current_task()
    assert running is not None  # noqa: S101 - a coroutine always runs in one
    _running[task_id] = running
    try:
        return await train(
            request,
            task_id=task_id,
            settings=settings,
            triton=context.state.triton,
            on_progress=save,
        )
    except asyncio.CancelledError:
        if task_id not in training_broker.intake.cancelled:
            raise  # the worker stops
        running.uncancel()
        raise TaskCancelledError("the training was cancelled while it ran") from None
    finally:
        del _running[task_id]
