"""`/metrics` of a training pool: a real training while it runs, and once it has ended."""

import asyncio
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bridge.embedded.ports import free_ports

MODEL = "measured-while-it-trains"
WHILE = ("epoch", "step", "loss", "samples_per_second", "checkpoint_timestamp_seconds")


async def scrape(port):
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.raise_for_status().text)
        for sample in family.samples
    }


async def until(port, right, most_s=150):
    found = {}
    try:
        async with asyncio.timeout(most_s):
            while not right(found := await scrape(port)):
                await asyncio.sleep(0.1)
    except TimeoutError:
        told = {key: it for key, it in found.items() if "_bucket" not in key[0]}
        raise AssertionError(f"not within {most_s} s: {told}") from None
    return found


def gauges(found):
    return {key for key in found if key[0] in {f"bridge_training_{name}" for name in WHILE}}


async def test_a_training_is_seen_while_it_runs_and_then_only_counted(pool):
    port = free_ports(1)[0]
    began = time.time()
    await pool.start(
        BRIDGE_METRICS_PORT=str(port),
        BRIDGE_METRICS_HOST="127.0.0.1",
        BRIDGE_CHECKPOINT_EVERY_S="0.5",
    )
    found = await until(port, lambda found: found.get(("bridge_training_jobs", "running")) == 0)
    assert gauges(found) == set()
    handle = await pool.client.train(
        "few", {"architecture": "cnn", "model_id": MODEL}, {"epochs": 20, "batch_size": 8}
    )
    seen = {(f"bridge_training_{name}", MODEL) for name in WHILE}
    found = await until(port, lambda found: gauges(found) == seen)
    assert found["bridge_training_epoch", MODEL] >= 1
    assert found["bridge_training_step", MODEL] >= 1
    assert found["bridge_training_samples_per_second", MODEL] > 0
    saved_at = found["bridge_training_checkpoint_timestamp_seconds", MODEL]
    assert began < saved_at <= time.time()

    await handle.result(240)
    ended = ("bridge_tasks_total", MODEL, "succeeded", "train_model", "1")
    found = await until(port, lambda found: found.get(ended) == 1 and not gauges(found))
    assert found["bridge_training_slices_total", MODEL, "finished"] == 1
    # The candidate that was tried before is not a model, and no load of one.
    assert found["bridge_model_loads_total", MODEL, "loaded"] == 1
    assert found["bridge_task_seconds_count", "train_model"] == 1
    assert found["bridge_queue_seconds_count", "train_model"] == 1
    assert not any("candidate" in value for key in found for value in key)

    # One that is refused names no model that anybody has.
    refused = await pool.client.train("few", {"model_id": "nobody-has-it"}, {"epochs": -1})
    error = await asyncio.gather(refused.result(120), return_exceptions=True)
    assert isinstance(error[0], Exception)
    failed = ("bridge_tasks_total", "unknown", "failed", "train_model", "unknown")
    found = await until(port, lambda found: found.get(failed) == 1)
    assert not any("nobody" in value for key in found for value in key)
