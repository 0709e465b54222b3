"""Where a worker's time goes: microseconds of each stage of one one-row task, in this process.

The stages are our own functions, called as the worker calls them on its way from message to
saved result; the rest of what `drain` measures for the worker is the libraries below it: the
event loop, aiormq, gRPC, Redis.
"""

import time
from collections.abc import Callable
from typing import Any

from taskiq import TaskiqResult

from bridge.forms import render_tensor
from bridge.inference.inputs import read_inputs
from bridge.messages import Formatter, encode_result, is_binary
from bridge.tensors import Tensor, join_rows, split_rows
from bridge.triton_client import TritonClient
from bridgebench.competitors import OursBinary, OursJson
from bridgebench.findings import Report, Spread, Table, number
from bridgebench.models import BATCH, MLP
from bridgebench.scenarios.run import Run

NAME = "stages"
TITLE = "Microseconds for each stage of one task"
_TASKS, _QUICK_TASKS = 4_000, 64


async def measure(run: Run) -> Report:
    """JSON and binary in turns."""
    async with TritonClient.from_settings(run.ground.settings) as triton:
        spec = await triton.model_spec(MLP)
    found: dict[str, dict[str, list[float]]] = {}
    for repetition in range(run.options.repetitions + 1):
        for kind in (OursJson, OursBinary):
            stages = _Stages(kind(run.ground), int(run.pick(_TASKS, _QUICK_TASKS)), spec)
            if repetition == 0:  # imports, caches
                stages.run()
                continue
            for stage, micros in stages.run().items():
                found.setdefault(stage, {}).setdefault(kind.title, []).append(micros)
    report = Report(NAME, TITLE)
    titles = (OursJson.title, OursBinary.title)
    rows = [
        (stage, *(Spread.of(found[stage][title]).shown() for title in titles)) for stage in found
    ]
    sums = (sum(Spread.of(found[stage][title]).median for stage in found) for title in titles)
    rows.append(("together", *(number(each) for each in sums)))
    report.tables.append(
        Table(f"µs for a task, batches of {BATCH}", ("stage", *titles), tuple(rows))
    )
    report.data = found
    return report


class _Stages:
    """One pass over many messages, stage by stage."""

    def __init__(self, ours: OursJson, count: int, spec: Any) -> None:
        self._bodies = [ours.mail(index).body for index in range(count)]
        self._spec = spec
        self._took: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Stage -> microseconds for a task."""
        formatter = Formatter()
        messages = self._each("read the message", self._bodies, formatter.loads)
        self._each("read its labels", messages, lambda message: message.parse_labels())
        read = self._each(
            "check the tensors", messages, lambda message: read_inputs(self._spec, message.args[1])
        )
        inputs = [tensors["x"] for tensors, _ in read]
        batches = [inputs[i : i + BATCH] for i in range(0, len(inputs), BATCH)]
        self._each("join rows", batches, join_rows)
        outputs = [Tensor("FP32", (len(batch), 10), bytes(40 * len(batch))) for batch in batches]
        cut = self._each(
            "cut the answer", outputs, lambda output: split_rows(output, [1] * output.shape[0])
        )
        answers = [part for parts in cut for part in parts]
        work = list(zip(messages, answers, (form for _, form in read), strict=True))
        self._each("write the result", work, lambda item: _written(*item))
        return self._took

    def _each(self, stage: str, items: list[Any], function: Callable[[Any], Any]) -> list[Any]:
        started = time.perf_counter()
        results = [function(item) for item in items]
        self._took[stage] = (time.perf_counter() - started) / len(self._bodies) * 1e6
        return results


def _written(message: Any, answer: Tensor, form: Any) -> bytes:
    binary = is_binary(message.labels)
    value = {
        "model_name": MLP,
        "model_version": "1",
        "outputs": {"y": render_tensor(answer, form, binary=binary)},
    }
    result: TaskiqResult[Any] = TaskiqResult.model_construct(
        is_err=False,
        log=None,
        return_value=value,
        execution_time=0.0,
        labels=message.labels,
        error=None,
    )
    return encode_result(result)
