"""Rows a second of the measured networks: in-process, by gRPC, and through the queue.

Enters: a running stack, networks. Leaves: one figure for each repetition, network, batch and way,
taken in turns so that what else the machine does meets all ways alike.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime

from bridge.client import BridgeClient
from bridge.repository import ModelRepository, render_config
from bridge.settings import Settings
from bridge.tensors import Array
from bridge.triton_client import TritonClient
from bridgebench.callers import Call, direct, side_by_side, through_queue
from bridgebench.gpu.nets import Net

WAYS = {"process": "ONNX Runtime in-process", "direct": "direct gRPC", "queue": "through the queue"}
_THREADS = 2  # one copies while the other computes
_ROWS_IN_FLIGHT = 512
_LEAST_IN_FLIGHT, _MOST_IN_FLIGHT = 4, 256
_ONE_INSTANCE = "instance_group [ { count: 1 } ]"
_TOLERANCE = 0.05  # of FP16 through a hundred layers, where batches are computed by other kernels


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and on what."""

    nets: Sequence[Net]
    batches: Sequence[int]
    repetitions: int
    seconds: float
    """Of each figure."""
    instances: int
    """Of each model in Triton."""
    gpu: bool
    """Else processors: a rehearsal."""


Rates = dict[str, dict[int, dict[str, list[float]]]]
"""Rows a second by network, batch and way; one for each repetition."""


@dataclass(slots=True)
class InProcess:
    """ONNX Runtime as anybody would use it: `run` from a few threads."""

    net: Net
    gpu: bool
    session: onnxruntime.InferenceSession = field(init=False)

    def __post_init__(self) -> None:
        """Load the model.

        Raises:
            RuntimeError: the GPU was left out.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not self.gpu:
            options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.net.model.SerializeToString(),
            options,
            providers=[
                *([("CUDAExecutionProvider", {"device_id": "0"})] if self.gpu else []),
                "CPUExecutionProvider",
            ],
            enable_fallback=0,
        )
        first = self.session.get_providers()[0]
        if self.gpu and first != "CUDAExecutionProvider":
            raise RuntimeError(f"ONNX Runtime runs on {first} in-process")

    def answer(self, rows: Array) -> Array:
        """What it answers, [batch, classes]."""
        answer: Array = self.session.run(["y"], {"x": rows})[0]
        return answer

    def rows_per_s(self, rows: Array, seconds: float) -> float:
        """Batches one after the other from each thread; one before that is not counted."""
        ready = threading.Barrier(_THREADS)

        def loop() -> float:
            self.answer(rows)
            ready.wait()
            begun, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - begun) < seconds:
                self.answer(rows)
                count += 1
            return count * len(rows) / spent

        with ThreadPoolExecutor(_THREADS) as pool:
            return sum(future.result() for future in [pool.submit(loop) for _ in range(_THREADS)])


def lay(net: Net, repository: ModelRepository, plan: Plan) -> None:
    """Write a network into Triton's repository, as an operator would for this GPU."""
    signature = net.signature(max(plan.batches))
    place = "kind: KIND_GPU gpus: [ 0 ]" if plan.gpu else "kind: KIND_CPU"
    config = render_config(signature).replace(
        _ONE_INSTANCE, f"instance_group [ {{ count: {plan.instances} {place} }} ]"
    )
    folder = repository.root / net.name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    onnx.save(net.model, str(folder / "1" / "model.onnx"))


async def measure(plan: Plan, settings: Settings, say: Callable[[str], None]) -> Rates:
    """Everything, on a stack that runs.

    Args:
        plan: how much.
        settings: the stack's.
        say: gets a line for people now and then.

    Raises:
        ValueError: the ways answer differently.
    """
    rates: Rates = {net.name: {b: defaultdict(list) for b in plan.batches} for net in plan.nets}
    async with (
        BridgeClient(settings) as client,
        TritonClient.from_settings(settings) as triton,
    ):
        for net in plan.nets:
            lay(net, ModelRepository(settings.model_repository), plan)
            await triton.load(net.name)
        own = {net.name: InProcess(net, plan.gpu) for net in plan.nets}
        for repetition in range(plan.repetitions):
            for net in plan.nets:
                for batch in plan.batches:
                    rows = net.rows(batch)
                    calls = {
                        "direct": direct(triton, net.name, rows),
                        "queue": through_queue(client, net.name, rows),
                    }
                    if not repetition:
                        await _compare(own[net.name].answer(rows), calls)
                    found = rates[net.name][batch]
                    found["process"].append(
                        await asyncio.to_thread(own[net.name].rows_per_s, rows, plan.seconds)
                    )
                    for way, call in calls.items():
                        loop = await side_by_side(call, in_flight(batch), plan.seconds)
                        found[way].append(loop.per_s * batch)
                say(f"  {repetition + 1}/{plan.repetitions} {net.title}: {_shown(rates[net.name])}")
    return rates


def in_flight(batch: int) -> int:
    """Requests of so many rows that keep a GPU busy."""
    return max(_LEAST_IN_FLIGHT, min(_MOST_IN_FLIGHT, _ROWS_IN_FLIGHT // batch))


async def _compare(wanted: Array, calls: dict[str, Call]) -> None:
    scale = max(1.0, float(np.abs(wanted).max()))
    for way, call in calls.items():
        found = (await call()).outputs["y"]  # type: ignore[attr-defined]  # both kinds have it
        array = found if isinstance(found, np.ndarray) else found.to_array()
        worst = float(np.abs(array.astype(np.float32) - wanted.astype(np.float32)).max())
        if not worst <= _TOLERANCE * scale:  # also when it is NaN
            raise ValueError(f"{WAYS[way]} answers otherwise than in-process, by {worst:g}")


def _shown(by_batch: dict[int, dict[str, list[float]]]) -> str:
    best = {way: max(found[way][-1] for found in by_batch.values()) for way in WAYS}
    return ", ".join(f"{WAYS[way]} {rate:,.0f} rows/s" for way, rate in best.items())
