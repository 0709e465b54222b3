"""Peers in other settings: each has a key of its own, and its worker gets the settings."""

from types import SimpleNamespace

import pytest
from bridgebench.competitors.celery import PROCESSES
from bridgebench.scenarios import SCENARIOS, USUAL
from bridgebench.scenarios.variants import made
from bridgebench.workers.environment import Servers


@pytest.fixture
def groups():
    def worker(name, command, ready, **variables):
        return SimpleNamespace(name=name, command=" ".join(command), variables=variables)

    servers = Servers("amqp://127.0.0.1:1", "redis://127.0.0.1:1", "127.0.0.1:1")
    return made(SimpleNamespace(servers=servers, worker=worker))


def test_a_whole_run_leaves_them_out():
    assert set(SCENARIOS) - set(USUAL) == {"variants"}


def test_each_is_there_once_and_first_as_in_the_drain(groups):
    for first, group in zip(
        ("celery", "ceiling_json", "ceiling_binary"), groups.values(), strict=True
    ):
        keys = [each.key for each in group]
        assert keys[0] == first
        assert len(set(keys)) == len(keys)
        assert len({each.title for each in group}) == len(keys)
        assert [each.worker().name for each in group] == keys


def test_celery_gets_its_pool(groups):
    commands = {each.key: each.worker().command for each in groups["Celery"]}
    assert f"--pool prefork --concurrency {PROCESSES} " in commands["celery"]
    assert "--pool threads --concurrency 16 " in commands["celery_threads_16"]
    found = " ".join(commands.values())
    assert all(f"--pool prefork --concurrency {size} " in found for size in (2, 4, 8))


def test_the_loop_gets_its_batches_and_prefetch(groups):
    variables = [each.worker().variables for each in groups["hand-written loop, JSON"]]
    assert variables[0] == {"BENCH_OUT": "1", "BENCH_PREFETCH": "1024"}
    pairs = {(each["BENCH_OUT"], each["BENCH_PREFETCH"]) for each in variables}
    assert pairs == {(out, held) for out in ("1", "2", "4") for held in ("256", "1024")}
