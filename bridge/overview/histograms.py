"""Quantiles from the workers' Prometheus histograms.

Enters: `/metrics` as text. Leaves: p50 and p99. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_BY = {"bridge_triton_seconds": "model", "bridge_task_seconds": "task"}
"""The histograms that are read, and the label by which."""

Buckets = dict[float, float]
"""Upper bound in seconds -> how many took no longer; `inf` holds all."""
Histograms = dict[tuple[str, str], Buckets]
"""By metric and label, over all other labels and workers."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """In seconds, as Prometheus' `histogram_quantile` has them: guessed within a bucket."""

    p50_s: float
    p99_s: float
    recent: bool
    """Of what came between the two looks; else of all since the workers began, as nothing came."""


def read_histograms(pages: Iterable[str]) -> Histograms:
    """Add up what several pools tell.

    Raises:
        ValueError: a page is not in Prometheus' text format.
    """
    found: Histograms = defaultdict(lambda: defaultdict(float))
    for page in pages:
        for family in text_string_to_metric_families(page):
            if family.name not in _BY:
                continue
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    label = sample.labels.get(_BY[family.name], "")
                    found[family.name, label][float(sample.labels["le"])] += sample.value
    return {key: dict(buckets) for key, buckets in found.items()}


def quantiles(metric: str, label: str, before: Histograms, after: Histograms) -> Quantiles | None:
    """Of what came between two looks; of all, if nothing did; None: nothing ever came.

    Args:
        metric: its name.
        label: what it is told by: a model, a task.
        before: a look.
        after: a later one.
    """
    now, then = after.get((metric, label)), before.get((metric, label), {})
    if not now or not now.get(float("inf")):
        return None
    came = {bound: count - then.get(bound, 0.0) for bound, count in now.items()}
    recent = came[float("inf")] > 0 and min(came.values()) >= 0  # a pool may have begun anew
    buckets = came if recent else now
    return Quantiles(_quantile(buckets, 0.5), _quantile(buckets, 0.99), recent)


def _quantile(buckets: Buckets, share: float) -> float:
    rank = share * buckets[float("inf")]
    lower, below = 0.0, 0.0
    for upper, count in sorted(buckets.items()):
        if count >= rank:
            if upper == float("inf") or count == below:
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = upper, count
    return lower
