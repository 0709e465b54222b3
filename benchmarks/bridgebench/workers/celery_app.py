"""Celery, with acknowledgement after the task as the bridge has it, and nothing it can do without.

Events, remote control, gossip and the like are off; children take a new task while the answer to
the last one is written (`-O fair` with a prefetch of several tasks for each child).
"""

from typing import Any

from celery import Celery
from kombu.entity import Queue

from bridgebench.workers.environment import RESULT_TTL_S, Servers
from bridgebench.workers.naive import SyncTriton

QUEUE = "bench_celery"
TASK = "ml_inference"
# 1, 32 and 128 make no difference; `variants` measures pools and their sizes.
_PREFETCH = 32


def make_app(servers: Servers) -> Celery:
    """An application with its one task."""
    app = Celery("bench", broker=servers.amqp_url, backend=servers.redis_url)
    app.conf.update(
        task_queues=[Queue(QUEUE, durable=True)],
        task_default_queue=QUEUE,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=RESULT_TTL_S,
        task_acks_late=True,
        worker_prefetch_multiplier=_PREFETCH,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_heartbeat=0,
        task_store_errors_even_if_ignored=False,
    )
    triton = SyncTriton(servers.triton)

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
    def ml_inference(model_id: str, input_data: dict[str, Any]) -> dict[str, Any]:
        return triton.infer(model_id, input_data)

    return app
