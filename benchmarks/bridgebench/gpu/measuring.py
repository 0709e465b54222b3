"""Rows a second of the measured networks: in-process, by gRPC, and through the queue.

Enters: a running stack, networks. Leaves: one figure for each repetition, network, batch and way,
taken in turns so that what else the machine does meets all ways alike; and how busy the callers of
the two ways through Triton were, as they are one process.
"""

import asyncio
import math
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
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
    rows_in_flight: int = 1024
    """In all requests that wait for an answer: two batches of 128 that two instances compute, and
    three times as many on the way, which is longest through the queue."""
    limit_s: float = math.inf
    """No repetition but the first begins that would not end within so many seconds."""


Figures = dict[str, dict[int, dict[str, list[float]]]]
"""By network, batch and way; one for each repetition."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it."""

    rates: Figures
    """Rows a second."""
    busy: Figures
    """How many processors the callers' process took, for the two ways through Triton. Python does
    one thing at a time: at 1 and above the callers may be what was measured."""
    failed: dict[str, str] = field(default_factory=dict)
    """What went wrong, by network. It costs the other networks nothing."""

    @contextmanager
    def noting(self, net: Net) -> Iterator[None]:
        """Whatever goes wrong with a network ends its measurement, and no other's."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told, and what was measured is kept
            traceback.print_exc()
            self.failed[net.name] = f"{type(error).__name__}: {error}"


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
        if self.gpu:
            onnxruntime.preload_dlls()  # those of NVIDIA's wheels
        cuda = {"device_id": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # as our backend has it
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not self.gpu:
            options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.net.model.SerializeToString(),
            options,
            providers=[
                *([("CUDAExecutionProvider", cuda)] if self.gpu else []),
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


async def measure(
    plan: Plan,
    settings: Settings,
    watched: AbstractContextManager[object],
    say: Callable[[str], None],
) -> Measured:
    """Everything, on a stack that runs.

    Args:
        plan: how much.
        settings: the stack's.
        watched: looks at the GPU while Triton alone uses it.
        say: gets a line for people now and then.
    """
    measured, begun = Measured(_none_yet(plan), _none_yet(plan)), time.monotonic()
    async with (
        BridgeClient(settings) as client,
        TritonClient.from_settings(settings) as triton,
    ):
        with watched:
            for net in plan.nets:
                with measured.noting(net):
                    await _use(plan, net, triton, ModelRepository(settings.model_repository))
        own: dict[str, InProcess] = {}
        for repetition in range(plan.repetitions):
            started = time.monotonic()
            for net in plan.nets:
                if net.name in measured.failed:
                    continue
                with measured.noting(net):
                    own[net.name] = own.get(net.name) or InProcess(net, plan.gpu)
                    await _repeat(plan, net, own[net.name], client, triton, measured)
                    shown = _shown(measured.rates[net.name])
                    say(f"  {repetition + 1}/{plan.repetitions} {net.title}: {shown}")
            now = time.monotonic()
            if now + (now - started) > begun + plan.limit_s:
                break
    return measured


async def _repeat(  # noqa: PLR0913, PLR0917 - both ways to a network, and where figures go
    plan: Plan,
    net: Net,
    own: InProcess,
    client: BridgeClient,
    triton: TritonClient,
    measured: Measured,
) -> None:
    """One figure for each batch and way.

    Raises:
        ValueError: the ways answer differently.
    """
    for batch in plan.batches:
        rows, found = net.rows(batch), measured.rates[net.name][batch]
        calls = {
            "direct": direct(triton, net.name, rows),
            "queue": through_queue(client, net.name, rows),
        }
        if not found:
            await _compare(own.answer(rows), calls)
        found["process"].append(await asyncio.to_thread(own.rows_per_s, rows, plan.seconds))
        for way, call in calls.items():
            per_s, share = await _called(plan, call, batch)
            found[way].append(per_s * batch)
            measured.busy[net.name][batch][way].append(share)


def _none_yet(plan: Plan) -> Figures:
    return {net.name: {batch: defaultdict(list) for batch in plan.batches} for net in plan.nets}


async def _use(plan: Plan, net: Net, triton: TritonClient, repository: ModelRepository) -> None:
    """Load a network into Triton, and have it compute for a while."""
    lay(net, repository, plan)
    await triton.load(net.name)
    batch = max(plan.batches)
    await _called(plan, direct(triton, net.name, net.rows(batch)), batch)


async def _called(plan: Plan, call: Call, batch: int) -> tuple[float, float]:
    """Calls a second, and how many processors this process took."""
    begun, computed = time.perf_counter(), time.process_time()
    loop = await side_by_side(call, in_flight(batch, plan.rows_in_flight), plan.seconds)
    return loop.per_s, (time.process_time() - computed) / (time.perf_counter() - begun)


def in_flight(batch: int, rows: int) -> int:
    """How many requests of `batch` rows each make so many rows."""
    return max(_LEAST_IN_FLIGHT, min(_MOST_IN_FLIGHT, rows // batch))


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
