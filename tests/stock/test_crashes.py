"""10: what a task that kills its process does to those after it, in real worker processes."""

import asyncio
import contextlib
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import psutil
from taskiq.kicker import AsyncKicker

from bridge.client import BridgeClient
from bridge.training.child import BUSY

ROOT = Path(__file__).parent.parent.parent
POISONED = """
import os, sys
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend

name = os.environ["NAME"]
broker = AioPikaBroker(
    os.environ["AMQP_URL"], exchange=Exchange(name=name + "_x"), task_queues=[Queue(name=name)],
    dead_letter_queue=Queue(name=name + ".dead_letter"),
).with_result_backend(RedisAsyncResultBackend(os.environ["REDIS_URL"]))

@broker.task("shout")
def shout(text: str) -> str:
    if text == "die":
        os._exit(1)  # as the kernel does where memory ends
    return text.upper()
"""


@asynccontextmanager
async def worker(log, *arguments, cwd=ROOT, **variables):
    """`taskiq worker`, for a block."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskiq", "worker", *arguments, "--workers", "1"),
            cwd=cwd,
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(60):
            while "Listening started." not in log.read_text():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def test_stock(rig, tmp_path):
    """All later tasks of the worker fail at once, and are acknowledged."""
    (tmp_path / "poisoned.py").write_text(POISONED)
    own, producer = rig.own, rig.broker("stock")
    await producer.startup()
    variables = {
        "NAME": own.taskiq_ml_queue,
        "AMQP_URL": own.rabbitmq_url,
        "REDIS_URL": own.redis_url.get_secret_value(),
    }
    arguments = ("poisoned:broker", "--use-process-pool")
    async with worker(tmp_path / "worker.log", *arguments, cwd=tmp_path, **variables):
        ended = []
        for text in ("before", "die", "after", "later"):
            sent = await AsyncKicker("shout", producer, {}).kiq(text)
            ended.append(await sent.wait_result(check_interval=0.05, timeout=20))
        await rig.taken()
    await producer.shutdown()
    assert ended[0].return_value == "BEFORE"
    assert ["BrokenProcessPool" in repr(it.error) for it in ended[1:]] == [True, True, True]
    assert await rig.counts() == (0, 0)


async def killed_child(process):
    """End the training process of a worker as the kernel does where memory ends."""
    async with asyncio.timeout(60):
        while True:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.name() == BUSY:
                        child.kill()
                        return
            await asyncio.sleep(0.02)


async def test_ours(rig, triton, tmp_path):
    """A training whose process dies is tried again, and the same worker trains the next."""
    (tmp_path / "data").mkdir()
    values = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    lines = [f"{a},{b},{'left' if a < b else 'right'}" for a, b in values]
    (tmp_path / "data" / "sides.csv").write_text("\n".join(["a,b,target", *lines]))
    own = rig.own
    variables = {
        "RABBITMQ_HOST": own.rabbitmq_host,
        "RABBITMQ_PORT": str(own.rabbitmq_port),
        "RABBITMQ_USERNAME": own.rabbitmq_username,
        "RABBITMQ_PASSWORD": own.rabbitmq_password.get_secret_value(),
        "TASKIQ_ML_EXCHANGE": own.taskiq_ml_exchange,
        "TASKIQ_ML_TRAINING_QUEUE": own.taskiq_ml_training_queue,
        "TASKIQ_ML_TRAINING_ROUTING_KEY": own.taskiq_ml_training_routing_key,
        "REDIS_URL": own.redis_url.get_secret_value(),
        "TRITON_URL": triton.address,
        "TRITON_ADMIN_KEY": triton.admin_key,
        "MODEL_REPOSITORY": str(triton.repository),
        "DATASET_ROOT": str(tmp_path / "data"),
        "CHECKPOINT_ROOT": str(tmp_path / "checkpoints"),
    }
    arguments = ("bridge.broker:training_broker", "bridge.tasks.training", "--max-async-tasks", "1")
    log = tmp_path / "worker.log"
    async with worker(log, *arguments, **variables) as process, BridgeClient(own) as client:
        dying = await client.train("sides", {"architecture": "mlp"}, {"epochs": 30})
        after = await client.train("sides", {"architecture": "mlp"}, {"epochs": 1})
        await killed_child(process)
        ended = [(await it.result(240))["model_version"] for it in (dying, after)]
        assert sorted(ended) == ["1", "2"]
        assert log.read_text().count("Listening started.") == 1
