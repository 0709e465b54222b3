"""A loop written by hand for this one task and model: about what the libraries below allow.

aio-pika under uvloop, batches of up to 64 rows, one after the other, results in one Redis round
trip for each batch, acknowledgements of a whole batch in one frame. No checks, no error handling,
no reconnection, no deadlines, no second model: all that makes a service is missing on purpose.

`python -m bridgebench.workers.ceiling` serves JSON and msgpack alike.
"""

import asyncio
import os
from collections import deque
from typing import Any

import aio_pika
import msgpack
import numpy as np
import orjson
import tritonclient.grpc.aio
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from redis.asyncio import Redis
from tritonclient.grpc import InferInput

from bridgebench.workers.environment import RESULT_TTL_S, Servers, read_servers

QUEUE = "bench_ceiling"
READY = "consuming"
OUT, PREFETCH = 1, 1024
"""Batches out at a time, and messages held at most, in the drain; `variants` measures others."""
_BATCH = 64


class Loop:
    """Gathers, infers, saves, acknowledges."""

    def __init__(self, channel: AbstractChannel, servers: Servers, out: int) -> None:
        self._channel = channel
        self._slots = asyncio.Semaphore(out)
        self._redis: Redis = Redis.from_url(servers.redis_url)
        self._triton = tritonclient.grpc.aio.InferenceServerClient(servers.triton)
        self._waiting: deque[AbstractIncomingMessage] = deque()
        self._there = asyncio.Event()

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """One delivery."""
        self._waiting.append(message)
        self._there.set()

    async def run(self) -> None:
        """Send batches, at most so many at a time; acknowledge them in order."""
        last: asyncio.Task[None] | None = None
        while True:
            await self._slots.acquire()
            while not self._waiting:
                self._there.clear()
                await self._there.wait()
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            last = asyncio.create_task(self._serve(batch, last))

    async def _serve(
        self, batch: list[AbstractIncomingMessage], before: asyncio.Task[None] | None
    ) -> None:
        tasks = [_unpacked(message.body) for message in batch]
        rows = np.concatenate([_row(task["args"][1]["x"]) for task in tasks])
        x = InferInput("x", list(rows.shape), "FP32")
        x.set_data_from_numpy(rows)
        result = await self._triton.infer(tasks[0]["args"][0], [x])
        outputs = result.as_numpy("y")
        version = result.get_response().model_version
        pipe = self._redis.pipeline(transaction=False)
        for i, (message, task) in enumerate(zip(batch, tasks, strict=True)):
            value = _answer(message.body, task, outputs[i : i + 1], version)
            pipe.set(task["task_id"], value, ex=RESULT_TTL_S)
        await pipe.execute()
        self._slots.release()
        if before is not None:
            await before
        underlay: Any = await self._channel.get_underlay_channel()
        await underlay.basic_ack(batch[-1].delivery_tag, multiple=True)


def _unpacked(body: bytes) -> dict[str, Any]:
    task: dict[str, Any] = orjson.loads(body) if body[:1] == b"{" else msgpack.unpackb(body)
    return task


def _row(value: Any) -> Any:
    if isinstance(value, list):
        return np.array(value, dtype=np.float32)
    return np.frombuffer(value["raw"], dtype=np.float32).reshape(value["shape"])


def _answer(body: bytes, task: dict[str, Any], output: Any, version: str) -> bytes:
    """A result in taskiq's layout, as the other competitors write it."""
    binary = body[:1] != b"{"
    y = (
        {"datatype": "FP32", "shape": list(output.shape), "raw": output.tobytes()}
        if binary
        else output.tolist()
    )
    fields = {
        "is_err": False,
        "log": None,
        "return_value": {
            "model_name": task["args"][0],
            "model_version": version,
            "outputs": {"y": y},
        },
        "execution_time": 0.0,
        "labels": task["labels"],
        "error": None,
    }
    packed: bytes = msgpack.packb(fields) if binary else orjson.dumps(fields)
    return packed


async def main() -> None:
    """Serve until killed."""
    servers = read_servers()
    connection = await aio_pika.connect_robust(servers.amqp_url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=int(os.environ.get("BENCH_PREFETCH", PREFETCH)))
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    loop = Loop(channel, servers, int(os.environ.get("BENCH_OUT", OUT)))
    await queue.consume(loop.receive)
    print(READY, flush=True)
    await loop.run()


if __name__ == "__main__":
    uvloop.run(main())
