"""How the processes of a pool stand: each writes a file, who is scraped reads those of the living.

Enters: gauges of this process. Leaves: gauges of the pool. A process that is dead, or a training
that has ended, is in no file, and leaves no series behind. Prometheus' own gauges of several
processes can neither forget a label nor tell a dead process from one that got its number.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge import __version__
from bridge.health import started
from bridge.metrics.backlog import Pace, backlog
from bridge.metrics.counts import Counts, Standing
from bridge.metrics.series import FOLDER, GAUGES

_ENDING = ".gauges.json"
Key = tuple[str, ...]


def write(standing: Iterable[Standing], counts: Counts, waiting: int | None) -> None:
    """Say how this process stands.

    Args:
        standing: its gauges.
        counts: what it has heard; what of that makes a gauge only together with other processes.
        waiting: messages in the queue whose work that is; None: it does not ask.
    """
    file = FOLDER / f"{os.getpid()}-{started(os.getpid())}{_ENDING}"
    said = {
        "at": time.time(),
        "standing": list(standing),
        "served": counts.served(),
        "away": counts.away(),
        "work": {model: asdict(pace) for model, pace in counts.work().items()},
        "waiting": waiting,
    }
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(said))
    draft.replace(file)


def withdraw() -> None:
    """This process ends."""
    for file in FOLDER.glob(f"{os.getpid()}-*{_ENDING}"):
        file.unlink(missing_ok=True)


def read() -> list[dict[str, Any]]:
    """What the living processes say, the latest last."""
    found = []
    for file in FOLDER.glob(f"*{_ENDING}"):
        pid, _, at = file.name.removesuffix(_ENDING).partition("-")
        if not at or started(pid) != at:
            file.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):  # it ends just now
            found.append(json.loads(file.read_text()))
    return sorted(found, key=lambda said: float(said["at"]))


def added_up(processes: Iterable[Mapping[str, Any]]) -> dict[str, dict[Key, float]]:
    """The pool's gauges, by name and the values of their labels."""
    found: dict[str, dict[Key, float]] = {name: {} for name in GAUGES}
    processes = list(processes)
    for said in processes:
        for name, labels, value in said["standing"]:
            known, key = found[name], tuple(labels)
            before = known.get(key, 0.0) if GAUGES[name].of_processes == "sum" else 0.0
            known[key] = before + value
    found["bridge_model_info"], found["bridge_model_paused"] = _of_models(processes)
    asked = [said["waiting"] for said in processes if said["waiting"] is not None]
    if asked:
        work = [{model: Pace(**pace) for model, pace in said["work"].items()} for said in processes]
        for model, seconds in backlog(asked[-1], work).items():
            found["bridge_backlog_seconds"][(model,)] = seconds
    found["bridge_build_info"][(__version__,)] = 1.0
    return found


def _of_models(
    processes: Iterable[Mapping[str, Any]],
) -> tuple[dict[Key, float], dict[Key, float]]:
    """Which version each model's last answer was of, and how many have found it away since."""
    latest: dict[str, tuple[float, str]] = {}
    for said in processes:
        for model, (version, at) in said["served"].items():
            latest[model] = max(latest.get(model, (0.0, "")), (at, version))
    paused: dict[Key, float] = {(model,): 0.0 for model in latest}
    for said in processes:
        for model, at in said["away"].items():
            if at > latest.get(model, (0.0, ""))[0]:
                paused[(model,)] = paused.get((model,), 0.0) + 1.0
    return {(model, version): 1.0 for model, (_, version) in latest.items()}, paused


class Gauges(Collector):
    """All of `GAUGES`, as Prometheus' library asks for them."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The pool's, as they stand."""
        found = added_up(read())
        for name, gauge in GAUGES.items():
            family = GaugeMetricFamily(name, gauge.help, labels=gauge.labels)
            for key, value in sorted(found[name].items()):
                family.add_metric(key, value)
            yield family
