"""`mlbridge status` and `mlbridge models`: what is up, what waits, what is served."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.advice import redis_advice
from bridge.cli.output import Json, console, print_json, print_table, sparkline
from bridge.client import BridgeClient
from bridge.errors import BridgeError, QueueError, RestrictedError, TritonError, outcome_of
from bridge.names import check_name
from bridge.queues import queue_depths
from bridge.settings import Settings, load_settings
from bridge.specs import ModelState
from bridge.tensors import TensorSpec
from bridge.trainings import Trainings
from bridge.triton_client import TritonClient

_EXIT_MISSING = 1
_WELL = {"queued", "running", "paused", "succeeded"}

_JOB = ("task_id", "state", "priority", "slices", "worker")
_NOBODY = "no consumer on the queue: no worker runs, or it pauses as Triton is away"


def status(
    task_id: Annotated[
        str | None, typer.Argument(help="A task: show its state, progress or result.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show what is up, what waits and who consumes; or one task.

    The exit code is 1 when a part is missing, or the task failed or is unknown.

    Example: `mlbridge status`

    Example: `mlbridge status 5f0c... --json`
    """
    if task_id is not None:
        found = asyncio.run(_task(check_name("task_id", task_id)))
        print_json(found) if json else _show_task(found)
        raise typer.Exit(0 if found["state"] in _WELL else _EXIT_MISSING)
    settings = load_settings()
    parts, queues = asyncio.run(_parts(settings))
    trainings = asyncio.run(_trainings(settings))
    if json:
        print_json({"parts": parts, "queues": queues, "trainings": trainings})
    else:
        print_table("parts", ("part", "address", "state"), [tuple(part.values()) for part in parts])
        print_table(
            "queues", ("queue", "waiting", "consumers"), [tuple(row.values()) for row in queues]
        )
        if trainings:
            print_table(
                "trainings",
                ("task", "state", "priority", "slices", "worker"),
                [tuple(job[key] for key in _JOB) for job in trainings],
            )
    missing = [part for part in parts if part["state"] != "up"]
    raise typer.Exit(_EXIT_MISSING if missing else 0)


def models(*, json: Json = False) -> None:
    """List what Triton's repository holds: versions, state, signature, requests so far.

    Needs TRITON_ADMIN_KEY where Triton restricts its repository protocol, as `mlbridge up` does.

    Example: `mlbridge models`
    """
    rows = asyncio.run(_models(load_settings()))
    if json:
        print_json(rows)
        return
    print_table(
        "models",
        ("model", "version", "state", "max batch", "inputs", "outputs", "rows", "mean batch"),
        [
            (
                row["name"],
                row["version"],
                row["state"] if not row["reason"] else f"{row['state']}: {row['reason']}",
                row.get("max_batch_size"),
                _signature(row.get("inputs")),
                _signature(row.get("outputs")),
                row.get("inference_count"),
                row.get("mean_batch_size"),
            )
            for row in rows
        ],
    )


async def _parts(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    parts: list[dict[str, Any]] = []
    queues: list[dict[str, Any]] = []

    def add(part: str, address: str, problem: str | None) -> None:
        parts.append({"part": part, "address": address, "state": problem or "up"})

    streams = settings.bridge_queue == "redis-streams"
    try:
        queues = [
            {"queue": depth.name, "waiting": depth.messages, "consumers": depth.consumers}
            for depth in await queue_depths(settings)
        ]
        problem = None
    except BridgeError as error:
        problem = str(error)
    where = settings.redis_shown if streams else settings.rabbitmq_shown
    add("Redis Streams" if streams else "RabbitMQ", where, problem)
    add("Redis", settings.redis_shown, await _redis_problem(settings))
    for address in settings.triton_addresses:
        add("Triton", address, await _triton_problem(settings, address))
    for row, pool in ((0, "inference"), (2, "training")):
        served = len(queues) > row and queues[row]["consumers"]
        add(f"{pool} workers", "", None if served else _NOBODY)
    return parts, queues


async def _trainings(settings: Settings) -> list[dict[str, Any]]:
    async with Redis.from_url(settings.redis_connect_url) as redis:
        try:
            return [asdict(job) for job in await Trainings(redis, settings).all()]
        except QueueError:  # the parts tell
            return []


async def _redis_problem(settings: Settings) -> str | None:
    async with Redis.from_url(settings.redis_connect_url) as redis:
        try:
            await redis.ping()
        except RedisError as error:
            return f"not reachable: {error}; {redis_advice(error, settings.redis_shown)}"
    return None


async def _triton_problem(settings: Settings, address: str) -> str | None:
    async with TritonClient.from_settings(settings, [address]) as triton:
        try:
            await triton.check()
        except TritonError as error:
            return str(error)
    return None


async def _task(task_id: str) -> dict[str, Any]:
    async with BridgeClient() as client:
        handle = client.handle(task_id)
        try:
            async with asyncio.timeout(0.2):
                result = await client.wait(task_id)
        except TimeoutError:
            progress, job = await handle.progress(), await client.job(task_id)
            if job is None:
                state = "running" if progress else "unknown"
                return {"task_id": task_id, "state": state, "progress": progress}
            return {**asdict(job), "progress": progress}
    if result.error is not None:
        text = f"{type(result.error).__name__}: {result.error}"
        return {"task_id": task_id, "state": outcome_of(result.error).value, "error": text}
    return {"task_id": task_id, "state": "succeeded", "result": result.return_value}


def _show_task(found: dict[str, Any]) -> None:
    if found["state"] == "unknown":
        console.print(
            f"{found['task_id']}: no record and no progress: queued, between two tries, or never "
            "submitted"
        )
        return
    state = found["state"] + (", to be paused" if found.get("pausing") else "")
    about = {
        name: found[name] for name in ("error", "priority", "slices", "worker") if name in found
    }
    detail = about | (found.get("progress") or found.get("result") or {})
    curve = detail.pop("curve", None)
    if curve:
        detail["validation loss"] = sparkline([loss for _, loss, _ in curve])
    print_table(f"{found['task_id']}: {state}", ("what", "value"), detail.items())


async def _models(settings: Settings) -> list[dict[str, Any]]:
    async with TritonClient.from_settings(settings) as triton:
        try:
            index = await triton.index()
        except RestrictedError:
            index = []
        counted = {(s.name, s.version): s for s in await triton.statistics()}
        if not index:  # without the key, statistics still name what is served
            index = [ModelState(name, version, "READY", "") for name, version in counted]
        return [await _model(triton, state, counted) for state in index]


async def _model(
    triton: TritonClient, state: ModelState, counted: dict[tuple[str, str], Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": state.name,
        "version": state.version,
        "state": state.state or "NOT LOADED",
        "reason": state.reason,
    }
    if state.state != "READY":
        return row
    try:
        spec = await triton.model_spec(state.name, state.version)
    except TritonError as error:  # unloaded since the index was read
        return {**row, "reason": str(error)}
    row |= {
        "max_batch_size": spec.max_batch_size,
        "inputs": _plain(spec.inputs),
        "outputs": _plain(spec.outputs),
    }
    if found := counted.get((state.name, state.version)):
        mean = found.inference_count / found.execution_count if found.execution_count else None
        row |= {
            "inference_count": found.inference_count,
            "mean_batch_size": mean and round(mean, 2),
        }
    return row


def _plain(specs: dict[str, TensorSpec]) -> dict[str, Any]:
    return {
        name: {"datatype": spec.datatype, "shape": list(spec.shape)} for name, spec in specs.items()
    }


def _signature(tensors: dict[str, Any] | None) -> str:
    return ", ".join(
        f"{name}: {spec['datatype']} {spec['shape']}" for name, spec in (tensors or {}).items()
    )
