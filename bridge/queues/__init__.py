"""The queues: the only package that builds them.

Enters: settings. Leaves: taskiq brokers, one for each queue, as taskiq's several queues on one
broker lose messages that carry no queue label.
"""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Literal

from bridge.dashboard import DashboardReporter
from bridge.queues.depths import QueueDepth, queue_depths
from bridge.queues.existing import Existing, Found, compare
from bridge.queues.letters import Letters
from bridge.queues.management import Management, NodeFigures, QueueFigures
from bridge.queues.rabbit_letters import rabbit_letters
from bridge.queues.rabbitmq import RabbitMQBroker
from bridge.queues.stream_letters import stream_letters
from bridge.queues.streams import StreamBroker
from bridge.settings import Settings
from bridge.traces import TracesMiddleware

__all__ = [
    "Broker",
    "Existing",
    "Found",
    "Kind",
    "Management",
    "NodeFigures",
    "QueueDepth",
    "QueueFigures",
    "build_broker",
    "compare",
    "open_letters",
    "queue_depths",
]

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
        # Only by its own label: the default is for callers who wait.
        settings = settings.model_copy(update={"bridge_deadline_s": None})
    broker: Broker
    if settings.bridge_queue == "rabbitmq":
        broker = RabbitMQBroker(settings, queue, routing_key, prefetch)
    else:
        broker = StreamBroker(settings, queue, prefetch)
    if settings.traces_wanted:
        broker.add_middlewares(TracesMiddleware(settings, broker.intake.endings, kind, queue))
    if settings.taskiq_dashboard_url is not None:
        broker.add_middlewares(DashboardReporter(settings, broker.intake.endings, queue))
    return broker


def open_letters(
    settings: Settings, kinds: Iterable[Kind]
) -> AbstractAsyncContextManager[list[Letters]]:
    """The dead letters of one or both queues, held until the block ends.

    Args:
        settings: where the queues are.
        kinds: which queues.

    Raises:
        QueueError: their server cannot be reached, or went away.
    """
    known: dict[Kind, tuple[str, str]] = {
        "inference": (settings.taskiq_ml_queue, ""),
        "training": (settings.taskiq_ml_training_queue, "t"),
    }
    queues = [known[kind] for kind in kinds]
    if settings.bridge_queue == "rabbitmq":
        return rabbit_letters(settings, queues)
    return stream_letters(settings, queues)
