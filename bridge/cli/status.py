"""`mlbridge status` and `mlbridge models`: what is up, what waits, what is served."""

import asyncio
import contextlib
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.live import Live
from taskiq import TaskiqResult
from taskiq_redis.exceptions import ResultIsMissingError

from bridge.channels import REDIS_LOST
from bridge.cli.output import (
    Json,
    console,
    print_json,
    print_json_line,
    print_table,
    say,
    sparkline,
)
from bridge.cli.overview import as_json, render
from bridge.cli.up import cancel_on_sigterm
from bridge.errors import QueueError, RestrictedError, TritonError, outcome_of
from bridge.names import check_task_id
from bridge.overview import look, take_samples
from bridge.queues.trouble import redis_trouble
from bridge.results import RedisResults
from bridge.settings import Settings, load_settings
from bridge.specs import READY, ModelState
from bridge.tensors import TensorSpec
from bridge.trainings import Trainings
from bridge.triton_client import TritonClient

_EXIT_MISSING = 1
_READ_S = 8.0  # a result may have hundreds of megabytes
_WELL = {"queued", "running", "paused", "succeeded"}


def status(
    task_id: Annotated[
        str | None, typer.Argument(help="A task: show its state, progress or result.")
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C; with --json a line for each.")
    ] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=0.1, metavar="SECONDS", help="How often, with --watch.")
    ] = 2.0,
    window_s: Annotated[
        float,
        typer.Option("--window", min=0.1, metavar="SECONDS", help="Models' rates are of so long."),
    ] = 1.0,
    json: Json = False,
) -> None:
    """Show what is up, what waits, who consumes and how fast models answer; or one task.

    The exit code is 1 when a part is missing (with --watch: was at last), or the task failed or
    is unknown.

    Rates of queues come from RabbitMQ's management API (RABBITMQ_MANAGEMENT_URL), where there is
    one; workers and p50/p99 from worker pools with a BRIDGE_METRICS_PORT (BRIDGE_WORKER_URLS).

    Example: `mlbridge status`

    Example: `mlbridge status --watch --every 5`

    Example: `mlbridge status 5f0c... --json`
    """
    if task_id is not None:
        found = asyncio.run(_task(check_task_id(task_id), load_settings()))
        print_json(found) if json else _show_task(found)
        raise typer.Exit(0 if found["state"] in _WELL else _EXIT_MISSING)
    settings = load_settings()
    if watch:
        missing = asyncio.run(_watch(settings, every_s, json=json))
    else:
        missing = asyncio.run(_look_once(settings, window_s, json=json))
    raise typer.Exit(_EXIT_MISSING if missing else 0)


async def _look_once(settings: Settings, window_s: float, *, json: bool) -> bool:
    before = await take_samples(settings)
    overview, _ = await look(settings, before, window_s=window_s)
    if json:
        print_json(as_json(overview))
    else:
        console.print(render(overview), markup=False)
    return bool(overview.missing)


async def _watch(settings: Settings, every_s: float, *, json: bool) -> bool:
    """Look again and again until Ctrl-C or SIGTERM; whether something was missing at the last."""
    cancel_on_sigterm()
    live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else None
    missing = False
    with contextlib.suppress(asyncio.CancelledError), live or contextlib.nullcontext():
        samples = await take_samples(settings)
        while True:
            overview, samples = await look(settings, samples, window_s=every_s)
            missing = bool(overview.missing)
            if json:
                print_json_line(as_json(overview))
            elif live is None:
                console.print(render(overview), markup=False)
            else:
                live.update(render(overview, brief=True), refresh=True)
    return missing


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


async def _task(task_id: str, settings: Settings) -> dict[str, Any]:
    """What Redis knows of a task, now."""
    shown, results = settings.redis_shown, RedisResults(settings)
    try:
        async with asyncio.timeout(_READ_S):
            return await _known(task_id, results, settings)
    except TimeoutError:
        raise QueueError(
            f"Redis at {shown} did not answer within {_READ_S:g} s; try again, or ask "
            "`mlbridge doctor`"
        ) from None
    except REDIS_LOST as error:
        raise redis_trouble(error, shown) from None
    finally:
        await results.shutdown()


async def _known(task_id: str, results: RedisResults, settings: Settings) -> dict[str, Any]:
    with contextlib.suppress(ResultIsMissingError):
        return _ended(task_id, await results.get_result(task_id))
    job = await Trainings(results.redis, settings).find(task_id)
    report = await results.get_progress(task_id)
    progress = report.meta if report else None
    if job is not None:
        return {**asdict(job), "progress": progress}
    with contextlib.suppress(ResultIsMissingError):  # it ended meanwhile
        return _ended(task_id, await results.get_result(task_id))
    state = "running" if progress else "unknown"
    return {"task_id": task_id, "state": state, "progress": progress}


def _ended(task_id: str, result: TaskiqResult[Any]) -> dict[str, Any]:
    if result.error is not None:
        text = f"{type(result.error).__name__}: {result.error}"
        return {"task_id": task_id, "state": outcome_of(result.error).value, "error": text}
    return {"task_id": task_id, "state": "succeeded", "result": result.return_value}


def _show_task(found: dict[str, Any]) -> None:
    if found["state"] == "unknown":
        say(
            f"{found['task_id']}: no record and no progress: queued, between two tries, never "
            "submitted, or its record has expired"
        )
        return
    state = found["state"] + (", to be paused" if found.get("pausing") else "")
    about = {
        name: found[name] for name in ("error", "priority", "slices", "worker") if name in found
    }
    more = found.get("progress") or found.get("result")
    if more is not None and not isinstance(more, dict):  # a task of the user's own
        more = {"result": more}
    detail = about | (more or {})
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
            index = [ModelState(name, version, READY, "") for name, version in counted]
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
    if not state.ready:
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
