"""Stock taskiq as its documentation sets it up, with the naive handler."""

from typing import Any

from taskiq.serializers import JSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

from bridgebench.workers.environment import RESULT_TTL_S, Servers
from bridgebench.workers.naive import AsyncTriton

# The default of 10 caps how many tasks run at a time. Of 10, 50, 100 and 200 the fastest.
PREFETCH = 200


def queue_name(queue_type: str) -> str:
    """The queue of that type."""
    return f"bench_stock_{queue_type}"


def make_broker(servers: Servers, queue_type: str) -> AioPikaBroker:
    """A broker with its one task.

    Args:
        servers: of this run.
        queue_type: `quorum`, taskiq's default, or `classic`.
    """
    name = queue_name(queue_type)
    broker = AioPikaBroker(
        servers.amqp_url,
        qos=PREFETCH,
        exchange=Exchange(name="bench_stock"),
        task_queues=[Queue(name=name, type=QueueType(queue_type), routing_key=name)],
        dead_letter_queue=Queue(name=f"{name}.dead_letter", type=QueueType(queue_type)),
    ).with_result_backend(
        RedisAsyncResultBackend(
            servers.redis_url, result_ex_time=RESULT_TTL_S, serializer=JSONSerializer()
        )
    )
    triton = AsyncTriton(servers.triton)

    @broker.task("ml_inference")
    async def ml_inference(model_id: str, input_data: dict[str, Any]) -> dict[str, Any]:
        return await triton.infer(model_id, input_data)

    return broker
