"""The queues: the only package that builds them.

Enters: settings. Leaves: taskiq brokers, one for each queue, as taskiq's several queues on one
broker lose messages that carry no queue label.
"""

from typing import Literal

from bridge.queues.depths import QueueDepth, queue_depths
from bridge.queues.rabbitmq import RabbitMQBroker
from bridge.queues.streams import StreamBroker
from bridge.settings import Settings

__all__ = ["Broker", "Kind", "QueueDepth", "build_broker", "queue_depths"]

Kind = Literal["inference", "training"]
Broker = RabbitMQBroker | StreamBroker

# A training task runs for long and must wait where another worker can take it.
_TRAINING_PREFETCH = 1


def build_broker(settings: Settings, kind: Kind) -> Broker:
    """A broker for one of the two queues, with our message format, results and intake.

    Args:
        settings: where queue and results are.
        kind: which queue.
    """
    if kind == "inference":
        queue, routing_key = settings.taskiq_ml_queue, settings.taskiq_ml_routing_key
        prefetch = settings.bridge_prefetch
    else:
        queue = settings.taskiq_ml_training_queue
        routing_key = settings.taskiq_ml_training_routing_key
        prefetch = _TRAINING_PREFETCH
    if settings.bridge_queue == "rabbitmq":
        return RabbitMQBroker(settings, queue, routing_key, prefetch)
    return StreamBroker(settings, queue, prefetch)
