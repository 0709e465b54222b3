"""The task of the training queue: train a model and make it live. Thin; torch is elsewhere.

A message trains for one slice at most, and is then replaced by one that continues it: no message is
unacknowledged for long, and jobs take turns. `bridge.jobs` says whose turn it is.
"""

import asyncio
import contextlib
import functools
import logging
import multiprocessing
import sys
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

from bridge import log_lines
from bridge.broker import settings, training_broker
from bridge.channels import REDIS_LOST, listen
from bridge.courtesy import is_busy
from bridge.crashes import repair
from bridge.deliveries import Dropped, Later, Turn
from bridge.errors import (
    BridgeError,
    CheckpointError,
    InvalidTrainingRequestError,
    LeaseLostError,
    PoisonousMessageError,
    TritonUnavailableError,
)
from bridge.jobs import CONTROL, Asking, Claim, Jobs
from bridge.labels import baton_of, continued, priority_of
from bridge.orphans import leave_none, stop_with_main_process
from bridge.repository import ModelRepository
from bridge.tasks.health import Watched, answering
from bridge.training.checkpoints import Checkpoints
from bridge.training.group import leading
from bridge.training.lease import Lease, is_orphan, worker_name
from bridge.training.places import open_checkpoint_store
from bridge.training.reaper import reap
from bridge.training.request import parse_request
from bridge.training.run import GOES_ON, Training
from bridge.training.running import Running
from bridge.training.starting import Spare
from bridge.training.sweeper import keep_swept
from bridge.training.threads import environment, pool_size, threads_for
from bridge.triton_client import TritonClient

log = logging.getLogger(__name__)

if training_broker.is_worker_process:
    log_lines.write(settings.bridge_log_format, settings.secrets)

_PAUSED_S = 60.0  # between looks at a paused training; one that is resumed comes at once
_NO_TRITON_S = _BUSY_S = 8.0
_NO_ROOM_S = 16.0  # what is trained is exported each time
_WORKER = worker_name()


@training_broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def connect(state: TaskiqState) -> None:
    """One Triton client for the life of the process, made after taskiq's fork."""
    stop_with_main_process()
    leave_none()
    exits = state.exits = AsyncExitStack()
    triton = state.triton = TritonClient.from_settings(settings)
    exits.push_async_callback(triton.close)
    redis, lease_s = training_broker.results.redis, settings.bridge_training_lease_s
    jobs = state.jobs = open_jobs()
    checkpoints = open_checkpoint_store(settings)
    group = await exits.enter_async_context(leading(redis, settings, _WORKER))
    spare = Spare(kept=settings.bridge_training_spare)
    exits.push_async_callback(spare.close)
    training_broker.intake.draining.append(spare.retire)
    running = state.running = Running(
        jobs,
        training_broker.intake,
        training_broker.results,
        worker=_WORKER,
        at_once=_at_once,
        shared_gpu=settings.bridge_shared_gpu,
        group=group,
        spare=spare,
    )
    training_broker.intake.cancelled.listeners.append(running.cancel)
    training_broker.intake.draining.append(running.stop)
    for background in (
        repair(redis, triton),
        listen(redis, CONTROL, running.nudge),
        reap(jobs, _hand_on, every_s=lease_s),
        keep_swept(jobs, checkpoints, settings.bridge_checkpoint_keep_s),
    ):
        exits.callback(asyncio.create_task(background).cancel)
    repository = ModelRepository(settings.model_repository)
    watched = Watched([triton], lambda name: name in repository.models())
    watched.subjects["train_model"] = _subject
    watched.asks.append(lambda: _states(jobs))
    await exits.enter_async_context(answering(training_broker, triton, watched))
    spare.prepare(_variables())  # the last one is set by what answers for this worker


def _subject(message: TaskiqMessage, value: Any) -> tuple[Any, Any]:
    """What a message and its result call model and version."""
    if isinstance(value, dict):
        return value.get("model_name"), value.get("model_version")
    try:
        dataset_id, config, _ = _arguments(*message.args, **message.kwargs)
    except TypeError:
        return None, None
    named = config.get("model_id") if isinstance(config, dict) else None
    return named or dataset_id, None


async def _states(jobs: Jobs) -> list[tuple[str, tuple[str, ...], float]]:
    found = await jobs.states()
    shown = {"running": "running", "queued": "waiting", "paused": "paused"}
    return [("bridge_training_jobs", (name,), float(found[state])) for state, name in shown.items()]


@training_broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def disconnect(state: TaskiqState) -> None:
    """Close what `connect` opened, also if it did not come to its end."""
    if "exits" in state:
        await state.exits.aclose()


def open_jobs() -> Jobs:
    """The records of trainings, in the worker's Redis."""
    return Jobs.of(training_broker.results.redis, settings)


@functools.cache
def _at_once() -> int:
    """How many trainings run at a time in this worker's pool; taskiq starts its processes."""
    return pool_size(sys.argv) if multiprocessing.parent_process() is not None else 1


def _variables() -> dict[str, str]:
    """Those of a training that begins here."""
    return environment(threads_for(_at_once(), settings.bridge_training_threads, None))


async def _may_expire(task_id: str) -> bool:
    jobs: Jobs = training_broker.state.jobs
    return await jobs.expire(task_id)


async def _hand_on(body: bytes, baton: int) -> None:
    message = continued(training_broker.formatter.loads(body), baton)
    await training_broker.kick(training_broker.formatter.dumps(message))


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
        What `bridge.training.run.Training.go_on` returns: model name and version, metrics, parity,
        inputs, outputs, labels.

    Raises:
        BridgeError: the subclass says what is wrong with the request, the data or the model.
    """
    raise NotImplementedError  # the intake runs `_train_model` in its place


def _arguments(
    dataset_id: Any = None, model_config: Any = None, hyperparameters: Any = None, *surplus: Any
) -> tuple[Any, Any, Any]:
    """What a caller may send, in order."""
    if surplus:
        raise TypeError(f"() got {3 + len(surplus)} arguments")
    return dataset_id, model_config, hyperparameters


async def _train_model(message: TaskiqMessage, turn: Turn) -> dict[str, Any] | Later | Dropped:
    """One turn of a training: a slice of it, or less."""
    task_id = message.task_id
    if await training_broker.results.is_result_ready(task_id):
        return Dropped()  # sent twice, or continued twice
    try:
        request = parse_request(*_arguments(*message.args, **message.kwargs), settings)
    except TypeError as error:
        raise InvalidTrainingRequestError(
            "train_model takes dataset_id, model_config and hyperparameters: it"
            + str(error).partition("()")[2]
        ) from None
    training = Training(request, task_id, settings, training_broker.state.triton)
    jobs: Jobs = training_broker.state.jobs
    if await is_busy(training_broker.results.redis, settings.bridge_shared_gpu):
        return Later(_BUSY_S)
    claim = await _claim(message, training.checkpoints)
    if claim.answer == "held" and await is_orphan(jobs, task_id):
        await jobs.release(task_id, claim.number, died=True)
        claim = await _claim(message, training.checkpoints)
    if claim.answer != "yours":
        return _not_now(message, claim)
    lease = Lease(jobs, task_id, claim.number, settings.bridge_training_lease_s)
    try:
        result = await training_broker.state.running.run(training, lease, claim.slices, turn)
    except LeaseLostError as error:
        log.warning("task %s is left alone: %s", task_id, error)
        return Later(settings.bridge_training_lease_s)
    except BridgeError as error:
        wait_s = await _pause_s(error, training)
        if wait_s is not None:
            return Later(wait_s)
        result = None
    finally:
        await jobs.release(task_id, claim.number)
    return Later(instead=continued(message, claim.number)) if result is None else result


async def _pause_s(error: BridgeError, training: Training) -> float | None:
    """How long a training waits after an error that is no fault of its own; None: not at all.

    Raises:
        BridgeError: the error, as the training neither waits nor goes on after it.
    """
    if isinstance(error, TritonUnavailableError):
        log.warning("task %s waits for Triton with its trained model: %s", training.task_id, error)
        return _NO_TRITON_S
    if await training.waits_after(error):
        log.warning("task %s waits with what it has learnt: %s", training.task_id, error)
        return _NO_ROOM_S
    if not (isinstance(error, GOES_ON) and training.goes_on_after(error)):
        raise error
    log.warning("task %s goes on from its checkpoint: %s", training.task_id, error)
    return None


async def _claim(message: TaskiqMessage, checkpoints: Checkpoints) -> Claim:
    """Ask whether it is this message's turn.

    Raises:
        CheckpointError: it is, as far as we know, but the store of checkpoints cannot be used.
        PoisonousMessageError: it would be, but for how many workers were lost with the training.
    """
    jobs: Jobs = training_broker.state.jobs
    try:
        floor = await checkpoints.floor()
    except CheckpointError:
        if await jobs.to_be_paused(message.task_id):  # that needs no store
            return Claim("paused")
        raise
    asking = Asking(
        worker=_WORKER,
        message=training_broker.formatter.dumps(message).message,
        baton=baton_of(message.labels),
        priority=priority_of(message.labels),
        floor=floor,
        limit=settings.bridge_delivery_limit,
    )
    claim = await jobs.claim(message.task_id, asking)
    if claim.answer == "paused":
        try:
            await checkpoints.touch(settings.bridge_checkpoint_keep_s)
        except CheckpointError as error:
            log.warning("paused task %s: %s", message.task_id, error)
    if claim.answer == "poisonous":
        raise PoisonousMessageError(
            f"{asking.limit} workers were lost with the training, one after the other, and none "
            "of them came to a checkpoint; it lies in the dead-letter queue"
        )
    return claim


def _not_now(message: TaskiqMessage, claim: Claim) -> Later | Dropped:
    if claim.answer == "stale":
        return Dropped()
    if claim.answer == "held":
        return Later(claim.left_ms / 1000)
    if claim.answer == "paused":
        return Later(_PAUSED_S)
    return Later(instead=continued(message))  # a task of higher priority waits


class ForgetJob(TaskiqMiddleware):
    """Forgets whose turn it was at a task that has ended."""

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:  # noqa: ARG002 - taskiq's
        """Called after the result is saved and before the message is acknowledged."""
        jobs: Jobs | None = training_broker.state.get("jobs")
        if jobs is not None and message.task_name == "train_model":
            with contextlib.suppress(*REDIS_LOST):  # it expires
                await jobs.forget(message.task_id)


_forget = ForgetJob()
training_broker.add_middlewares(_forget)
# Who replays its letter begins anew.
training_broker.intake.endings.given_up.append(_forget.post_save)
training_broker.intake.shortcuts["train_model"] = _train_model
training_broker.intake.self_stopping.add("train_model")
training_broker.intake.expiring["train_model"] = _may_expire
