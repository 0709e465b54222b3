"""Dramatiq with results in Redis, and of its middlewares those that its documentation asks for."""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AgeLimit, Retries, ShutdownNotifications, TimeLimit
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bridgebench.workers.environment import RESULT_TTL_S, Servers
from bridgebench.workers.naive import SyncTriton

QUEUE = "bench_dramatiq"
TASK = "ml_inference"


def make_actor(servers: Servers) -> dramatiq.Actor[..., dict[str, Any]]:
    """A broker and its one actor; `actor.broker` is the broker."""
    results = Results(
        backend=RedisBackend(url=servers.redis_url),
        store_results=True,
        result_ttl=RESULT_TTL_S * 1000,
    )
    middleware = [AgeLimit(), TimeLimit(), ShutdownNotifications(), Retries(), results]
    broker = RabbitmqBroker(url=servers.amqp_url, middleware=middleware, confirm_delivery=True)
    triton = SyncTriton(servers.triton)

    @dramatiq.actor(broker=broker, actor_name=TASK, queue_name=QUEUE)
    def ml_inference(model_id: str, input_data: dict[str, Any]) -> dict[str, Any]:
        return triton.infer(model_id, input_data)

    return ml_inference
