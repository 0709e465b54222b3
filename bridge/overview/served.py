"""What Triton served in a while, from two looks at its own counts."""

from collections import defaultdict
from dataclasses import dataclass

from bridge.errors import BridgeError
from bridge.overview.histograms import Histograms, Quantiles, quantiles
from bridge.overview.parts import bounded
from bridge.settings import Settings
from bridge.triton_client import TritonClient

TRITON_SECONDS = "bridge_triton_seconds"
"""The workers' histogram of requests to Triton, by model."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one version, since it was loaded, over all servers."""

    requests: int
    failures: int
    rows: int
    executions: int


Served = dict[tuple[str, str], Counts]


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version of a model that is served."""

    model: str
    version: str
    requests_per_s: float | None
    rows_per_s: float | None
    failures_per_s: float | None
    batch_size: float | None
    """Rows in a batch that Triton ran, the mean; None: it ran none in the while."""
    rows: int
    """Since it was loaded."""
    seconds: Quantiles | None
    """Of the workers' requests for the model, all versions; None: no worker tells."""


async def count_served(settings: Settings) -> Served:
    """Triton's statistics, of each server that answers."""
    summed: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for address in settings.triton_addresses:
        async with TritonClient.from_settings(settings, [address]) as triton:
            try:
                found = await bounded(triton.statistics())
            except BridgeError:  # the parts tell
                continue
        for each in found:
            stats = each.inference_stats
            counts = (
                stats.success.count,
                stats.fail.count,
                each.inference_count,
                each.execution_count,
            )
            known = summed[each.name, each.version]
            known[:] = [old + int(new) for old, new in zip(known, counts, strict=True)]
    return {key: Counts(*counts) for key, counts in summed.items()}


def served_between(
    before: Served, after: Served, took_s: float, told: tuple[Histograms, Histograms]
) -> list[ModelRow]:
    """A row for each version that is served now.

    Args:
        before: a look.
        after: another, `took_s` seconds later.
        took_s: above 0.
        told: the workers' histograms at about the same times.
    """
    rows = []
    for (model, version), now in sorted(after.items()):
        then = before.get((model, version))
        if then is None or now.requests < then.requests:  # loaded anew meanwhile
            then = now
        rows.append(
            ModelRow(
                model,
                version,
                requests_per_s=(now.requests - then.requests) / took_s,
                rows_per_s=(now.rows - then.rows) / took_s,
                failures_per_s=(now.failures - then.failures) / took_s,
                batch_size=_mean(now.rows - then.rows, now.executions - then.executions),
                rows=now.rows,
                seconds=quantiles(TRITON_SECONDS, model, *told),
            )
        )
    return rows


def _mean(rows: int, executions: int) -> float | None:
    return rows / executions if executions > 0 else None
