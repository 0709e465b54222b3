"""Messages of 64 rows, through the queue and directly."""

from collections import defaultdict

from bridge.client import BridgeClient
from bridge.tensors import Array
from bridge.triton_client import TritonClient
from bridgebench.callers import Loop, direct, ones, side_by_side, through_queue
from bridgebench.competitors import OursBinary
from bridgebench.competitors.taskiq_layout import binary_mail
from bridgebench.findings import Finding, Report, Spread, Table, number, percentile
from bridgebench.models import BATCH, FEATURES, MLP
from bridgebench.posting import Mail
from bridgebench.scenarios.drain import drain_once
from bridgebench.scenarios.run import Run

NAME = "batches"
TITLE = "Messages of 64 rows"
_IN_FLIGHT = 16
_DRAIN, _QUICK_DRAIN = 3_000, 50
_TITLES = {
    "direct": "direct gRPC",
    "ours": "ours end to end, one worker process beside the producer",
    "drained": "ours, preloaded messages drained by one worker process",
}


async def measure(run: Run) -> Report:
    """Producer, queue, worker, Triton and Redis share the machine; so do caller and Triton."""
    ways: dict[str, list[float]] = defaultdict(list)
    p50: dict[str, list[float]] = defaultdict(list)
    drained = _Batches(run.ground)
    for _ in range(run.options.repetitions):
        for name, loop in (await _end_to_end(run)).items():
            ways[name].append(loop.per_s * BATCH)
            p50[name].append(percentile(loop.took_ms, 50))
        drain = await drain_once(run, drained, int(run.pick(_DRAIN, _QUICK_DRAIN)))
        ways["drained"].append(drain.per_s * BATCH)
    return _report(ways, p50)


async def _end_to_end(run: Run) -> dict[str, Loop]:
    rows = ones(BATCH, FEATURES)
    async with (
        run.working(run.ground.bridge_workers(1)),
        BridgeClient(run.ground.settings) as client,
        TritonClient.from_settings(run.ground.settings) as triton,
    ):
        calls = {"direct": direct(triton, MLP, rows), "ours": through_queue(client, MLP, rows)}
        return {
            name: await side_by_side(call, _IN_FLIGHT, run.pick(3.0, 0.3))
            for name, call in calls.items()
        }


class _Batches(OursBinary):
    """Ours, with all rows in each message."""

    def mail(self, index: int) -> Mail:
        """A task."""
        return binary_mail(index, self.ground.models.rows)

    def is_right(self, mail: Mail, output: Array) -> bool:  # noqa: ARG002 - all carry the same
        """Whether all rows are."""
        return self.ground.models.are_right(output)


def _report(ways: dict[str, list[float]], p50: dict[str, list[float]]) -> Report:
    report = Report(NAME, TITLE)
    report.findings.extend(
        Finding(
            f"rows/s in messages of 64, {title} : direct gRPC",
            Spread.ratio(ways[name], ways["direct"]),
            at_least=0.6,
        )
        for name, title in (("ours", "ours end to end"), ("drained", "ours drained"))
    )
    report.tables.append(
        Table(
            f"{BATCH}-row messages, {_IN_FLIGHT} in flight",
            ("", "of direct gRPC", "rows/s", "p50 ms"),
            tuple(
                (
                    _TITLES[name],
                    Spread.ratio(ways[name], ways["direct"]).shown("×"),
                    Spread.of(ways[name]).shown(),
                    number(Spread.of(p50[name]).median) if name in p50 else "",
                )
                for name in ways
            ),
        )
    )
    report.data = {"rows_per_s": ways, "p50_ms": p50, "in_flight": _IN_FLIGHT}
    return report
