"""Quantiles from pages as a Prometheus client writes them."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from bridge.overview.histograms import quantiles, read_histograms

METRIC = "bridge_triton_seconds"


@pytest.fixture
def pool():
    """A worker pool's registry: gives its page, and a way to observe."""
    registry = CollectorRegistry()
    seconds = Histogram(METRIC, "Help.", ["model"], buckets=(0.01, 0.1, 1), registry=registry)
    Counter("bridge_tasks", "Help.", ["task"], registry=registry).labels("t").inc()

    class Pool:
        def observe(self, model, *values):
            for value in values:
                seconds.labels(model).observe(value)

        def page(self):
            return generate_latest(registry).decode()

    return Pool()


def test_of_what_came_between_two_looks(pool):
    pool.observe("digits", *[0.005] * 100)
    before = read_histograms([pool.page()])
    pool.observe("digits", *[0.05] * 100)
    after = read_histograms([pool.page()])
    found = quantiles(METRIC, "digits", before, after)
    assert found.recent
    assert found.p50_s == pytest.approx(0.055)
    assert found.p99_s == pytest.approx(0.0991)


def test_of_all_where_nothing_came_or_a_pool_began_anew(pool):
    pool.observe("digits", *[0.005] * 10)
    page = read_histograms([pool.page()])
    found = quantiles(METRIC, "digits", page, page)
    assert not found.recent
    assert found.p50_s == pytest.approx(0.005)
    more = read_histograms([pool.page()] * 2)
    assert not quantiles(METRIC, "digits", more, page).recent


def test_pools_add_up_and_models_stand_alone(pool):
    pool.observe("digits", 0.005)
    pool.observe("slow", 0.5)
    found = read_histograms([pool.page()] * 3)
    assert found[METRIC, "digits"][float("inf")] == 3
    assert quantiles(METRIC, "slow", {}, found).p50_s == pytest.approx(0.55)
    assert quantiles(METRIC, "nobody", {}, found) is None
    assert ("bridge_tasks", "t") not in found


def test_beyond_the_last_bucket_there_is_no_more_to_say(pool):
    pool.observe("digits", 50.0)
    assert quantiles(METRIC, "digits", {}, read_histograms([pool.page()])).p99_s == 1
