"""`mlbridge demo`: the main job, end to end, on a stack of its own.

Digits go into the dataset store, a queued task trains a CNN on them, it goes live in Triton, and
the images that it has not seen are classified through the queue and directly.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bridge.cli.batches import batches_of, by_size
from bridge.cli.follow import follow_training
from bridge.cli.memory import PeakMemory
from bridge.cli.output import Json, errors, print_json, print_table, say
from bridge.cli.up import cancel_on_sigterm
from bridge.client import BridgeClient
from bridge.embedded.stack import QueueChoice, Stack
from bridge.embedded.triton import TritonServer
from bridge.errors import RuntimeStartError
from bridge.settings import load_settings
from bridge.tensors import Array, Tensor
from bridge.training.datasets import DatasetStore
from bridge.triton_client import TritonClient

DATASET = "digits"
INPUT = "image"
WANTED_ACCURACY = 0.97
_EXIT_MISSED = 1
_EXIT_STOPPED = 143  # as a shell has it after SIGTERM
_IDLE_CALLS = 100
_THROUGHPUT_S = 4.0
_CALLERS = 64
_SHOWN_BATCHES = 5


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the model, measured: answers, and how fast they came."""

    labels: Array
    images_per_s: float
    p50_ms: float
    p99_ms: float


Classify = Callable[[Array], Coroutine[Any, Any, Array]]


def demo(
    queue: Annotated[
        QueueChoice, typer.Option(help="auto: RabbitMQ where it is installed, else Redis Streams.")
    ] = QueueChoice.AUTO,
    epochs: Annotated[int | None, typer.Option(min=1, help="Training epochs.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the training: 32, bf16-mixed; 16-mixed on a GPU.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Train a model from the queue, see it go live, and predict with it in both ways.

    Everything runs on an embedded stack of its own, under a temporary folder, and is gone at the
    end. The exit code is 0 only if at least 97 % of the images are right and both ways agree.

    Example: `mlbridge demo --json`
    """
    given = {"epochs": epochs, "precision": precision}
    hyperparameters = {name: value for name, value in given.items() if value is not None}
    try:
        report = asyncio.run(run_demo(hyperparameters, queue))
    except asyncio.CancelledError:  # SIGTERM
        say("stopped; nothing is left running", errors)
        raise typer.Exit(_EXIT_STOPPED) from None
    if json:
        print_json(report)
    else:
        _show(report)
    raise typer.Exit(0 if report["passed"] else _EXIT_MISSED)


async def run_demo(
    hyperparameters: dict[str, Any], queue: QueueChoice = QueueChoice.AUTO
) -> dict[str, Any]:
    """The whole demo; tells on standard error how far it is.

    Args:
        hyperparameters: of the training, where not the usual ones.
        queue: as for `Stack`.

    Returns:
        The report that `--json` prints; `passed` says whether it went well.
    """
    cancel_on_sigterm()
    started = time.perf_counter()
    train, validation = _digits()
    with PeakMemory() as memory:
        say("starting Triton, Redis, the queue and both worker pools", errors)
        async with Stack(load_settings(), private=True, queue=queue, workers=1) as stack:
            for part in stack.parts:
                say(f"  {part.name}: {part.address or part.state}", errors)
            root = Path(stack.settings.dataset_root)
            splits = {"train": train, "validation": validation}
            await asyncio.to_thread(DatasetStore(root).add, DATASET, splits)
            say(f"training on {len(train['label'])} images, from the queue", errors)
            async with (
                BridgeClient(stack.settings) as client,
                TritonClient.from_settings(stack.settings) as triton,
            ):
                trained = await _train(client, hyperparameters)
                report = await _compare(client, triton, trained, validation)
            report["served_on"] = await served_on(stack, trained["model_name"])
            report["queue"] = stack.settings.bridge_queue
        report["peak_memory_mb"] = memory.peak_mb
    report["total_s"] = round(time.perf_counter() - started, 1)
    return report


async def served_on(stack: Stack, model: str) -> list[dict[str, str]]:
    """What each instance of a model runs on: `device`, `provider`, as our own Triton tells."""
    servers = (part.server for part in stack.parts)
    triton = next(server for server in servers if isinstance(server, TritonServer))
    return [each for each in await triton.instances() if each["model"] == model]


async def _train(client: BridgeClient, hyperparameters: dict[str, Any]) -> dict[str, Any]:
    handle = await client.train(DATASET, {"architecture": "cnn"}, hyperparameters)
    trained = await follow_training(client, handle, f"training {DATASET}")
    say(f"live: {trained['model_name']} version {trained['model_version']}", errors)
    return trained


async def _compare(
    client: BridgeClient,
    triton: TritonClient,
    trained: dict[str, Any],
    validation: dict[str, Array],
) -> dict[str, Any]:
    model = trained["model_name"]

    async def by_queue(rows: Array) -> Array:
        result = await client.infer(model, {INPUT: rows})
        return next(iter(result.outputs.values()))

    async def directly(rows: Array) -> Array:
        inputs = {INPUT: Tensor.from_array(rows)}
        reply = await triton.infer(model, inputs, timeout_s=30.0)
        return next(iter(reply.outputs.values())).to_array()

    say("classifying through the queue, then directly", errors)
    images, labels = validation[INPUT], validation["label"]
    ways = {"queue": await _measure(by_queue, images), "direct": await _measure(directly, images)}
    accuracy = {name: float((way.labels == labels).mean()) for name, way in ways.items()}
    agreement = float((ways["queue"].labels == ways["direct"].labels).mean())
    batches = by_size(await batches_of(triton, model))
    return {
        "passed": min(accuracy.values()) >= WANTED_ACCURACY and agreement == 1.0,
        "model_name": model,
        "model_version": trained["model_version"],
        "metrics": trained["metrics"],
        "parity": trained["parity"],
        "training_s": trained["duration_s"],
        "images": len(labels),
        "agreement": agreement,
        "ways": {
            name: {
                "accuracy": accuracy[name],
                "images_per_s": round(way.images_per_s, 1),
                "p50_ms": round(way.p50_ms, 2),
                "p99_ms": round(way.p99_ms, 2),
            }
            for name, way in ways.items()
        },
        "batches": batches,
    }


async def _measure(classify: Classify, images: Array) -> Way:
    """Each image once for its label, one caller for latency, many callers for throughput."""
    rows = [images[i : i + 1] for i in range(len(images))]
    answers = await _gather([classify(row) for row in rows])
    labels = np.concatenate(answers).argmax(axis=1)
    took_ms = []
    for i in range(_IDLE_CALLS):
        started = time.perf_counter()
        await classify(rows[i % len(rows)])
        took_ms.append((time.perf_counter() - started) * 1e3)
    done, started = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - started < _THROUGHPUT_S:
            await classify(rows[done % len(rows)])
            done += 1

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    rate = done / (time.perf_counter() - started)
    return Way(labels, rate, float(np.percentile(took_ms, 50)), float(np.percentile(took_ms, 99)))


async def _gather(calls: list[Coroutine[Any, Any, Array]]) -> list[Array]:
    gate = asyncio.Semaphore(_CALLERS)

    async def one(call: Coroutine[Any, Any, Array]) -> Array:
        async with gate:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def _digits() -> tuple[dict[str, Array], dict[str, Array]]:
    """1,437 handwritten digits to train on and 360 to judge by, `image` [8, 8] of 0 to 16."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - the `demo` extra's only
        from sklearn.model_selection import train_test_split  # noqa: PLC0415
    except ModuleNotFoundError:
        raise RuntimeStartError(
            "the demo needs scikit-learn's digits: pip install 'taskiq-triton-bridge[demo]'"
        ) from None
    digits = load_digits()
    parts = train_test_split(
        digits.images.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=0.2,
        random_state=0,
        stratify=digits.target,
    )
    return ({INPUT: parts[0], "label": parts[2]}, {INPUT: parts[1], "label": parts[3]})


def _show(report: dict[str, Any]) -> None:
    ways = report["ways"]
    rows = [
        ("accuracy", *(f"{way['accuracy']:.2%}" for way in ways.values())),
        ("images/s, 64 callers", *(f"{way['images_per_s']:,.0f}" for way in ways.values())),
        ("p50, one caller", *(f"{way['p50_ms']:.1f} ms" for way in ways.values())),
        ("p99, one caller", *(f"{way['p99_ms']:.1f} ms" for way in ways.values())),
    ]
    title = f"{report['images']} unseen digits, {report['model_name']} {report['model_version']}"
    print_table(title, ("", f"queue ({report['queue']})", "direct gRPC"), rows)
    batches = report["batches"]
    common = sorted(sorted(batches, key=batches.get, reverse=True)[:_SHOWN_BATCHES], key=int)
    sizes = ", ".join(f"{size}: {batches[size]:,}" for size in common)
    say(f"both ways agree on {report['agreement']:.2%} of the images", errors)
    say(f"the commonest batches that Triton ran (rows: count): {sizes}", errors)
    devices = sorted({f"{each['device']} ({each['provider']})" for each in report["served_on"]})
    say(f"served on: {', '.join(devices)}", errors)
    say(f"trained in {report['training_s']:.1f} s, everything in {report['total_s']:.1f} s", errors)
    say(f"peak memory of all processes together: {report['peak_memory_mb']:,.0f} MB", errors)
    failed = f"FAILED: under {WANTED_ACCURACY:.0%}, or they differ"
    say("passed" if report["passed"] else failed, errors)
