"""The queues: what waits, who consumes, what was given up, and whether RabbitMQ has room."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board
from bridgeboards.panels import (
    BAD_ABOVE_ZERO,
    lines,
    number,
    per_second,
    seconds_in_queue,
)

_LETTERS = 'queue=~".+[.]dead_letter"'
_WORK = 'queue!~".+[.](dead_letter|delay[.].+)"'


def queue() -> Dashboard:
    """The dashboard `bridge-queue`."""
    return board(
        "bridge-queue",
        "Bridge · Queue",
        "What waits, who consumes, what was given up, and whether RabbitMQ has room.",
        {
            "Who waits, who consumes?": _waiting(),
            "Does it flow?": _flow(),
            "What was given up, or comes again?": _given_up(),
            "Have RabbitMQ and Redis room?": _room(),
        },
    )


def _waiting() -> list[object]:
    queues = "max by (queue) (rabbitmq_detailed_queue_{}{{{}}})"
    return [
        lines(
            "Waiting",
            {"{{queue}}": queues.format("messages_ready", 'queue!~".+[.]dead_letter"')},
            "Not yet in a worker's hands. `.delay` queues hold what is tried again later.",
        ),
        lines(
            "In workers' hands",
            {"{{queue}}": queues.format("messages_unacked", _WORK)},
            "Delivered, and not yet acknowledged: batched, in Triton, being saved.",
        ),
        lines(
            "Consumers",
            {"{{queue}}": queues.format("consumers", _WORK)},
            "One for each worker process that takes messages. 0: paused, or none runs.",
            runbook="BridgeQueueWithoutConsumers",
        ),
    ]


def _flow() -> list[object]:
    rate = "sum(rate(rabbitmq_global_messages_{}_total[$__rate_interval]))"
    return [
        lines(
            "Messages a second, through RabbitMQ",
            {
                "published": rate.format("received"),
                "delivered": rate.format("delivered"),
                "acknowledged": rate.format("acknowledged"),
            },
            "All queues together. Published above acknowledged: a backlog grows.",
            unit="ops",
        ),
        seconds_in_queue(),
        lines(
            "Payload bytes a second",
            {
                "{{direction}}, by {{way}}": per_second(
                    "bridge_payload_bytes_total", by="direction, way"
                )
            },
            "Way: in the message, or beside it in the payload store.",
            unit="Bps",
        ),
    ]


def _given_up() -> list[object]:
    return [
        number(
            "Dead letters",
            f"sum(rabbitmq_detailed_queue_messages{{{_LETTERS}}})",
            "They lie there until somebody replays or purges them.",
            steps=BAD_ABOVE_ZERO,
            width=6,
            height=8,
        ),
        lines(
            "Dead letters since the pools started, by reason",
            {"{{error}}": "sum by (error) (bridge_dead_letters_total)"},
            "The error that gave a message up.",
            width=6,
            runbook="BridgeDeadLetters",
        ),
        lines(
            "Tries that come back, by error",
            {"{{error}}": per_second("bridge_retries_total", by="error")},
            "Errors that may pass.",
            unit="ops",
            width=6,
            runbook="BridgeRetries",
        ),
        lines(
            "Redelivered",
            {"{{task}}": per_second("bridge_redelivered_total", by="task")},
            "A worker or its connection ended with the message in hand.",
            unit="ops",
            width=6,
        ),
    ]


def _room() -> list[object]:
    return [
        lines(
            "Memory of RabbitMQ",
            {
                "used": "sum(rabbitmq_process_resident_memory_bytes)",
                "limit": "sum(rabbitmq_resident_memory_limit_bytes)",
            },
            "At the limit RabbitMQ blocks who publishes.",
            unit="bytes",
            width=8,
            colours={"limit": "red"},
            runbook="RabbitMQBlocksPublishers",
        ),
        lines(
            "Memory of Redis",
            {
                "used": "max(bridge_redis_memory_bytes)",
                "limit": "max(bridge_redis_memory_limit_bytes)",
            },
            "As workers ask it. At the limit it refuses results, and no task ends.",
            unit="bytes",
            width=8,
            colours={"limit": "red"},
            runbook="RedisNearLimit",
        ),
        lines(
            "Free disk",
            {
                "free": "min(rabbitmq_disk_space_available_bytes)",
                "limit": "max(rabbitmq_disk_space_available_limit_bytes)",
            },
            "Below the limit RabbitMQ blocks who publishes.",
            unit="bytes",
            width=8,
            colours={"limit": "red"},
            runbook="RabbitMQBlocksPublishers",
        ),
        lines(
            "File descriptors",
            {
                "used": "sum(rabbitmq_process_open_fds)",
                "limit": "sum(rabbitmq_process_max_fds)",
            },
            "At the limit RabbitMQ takes no more connections.",
            width=12,
            colours={"limit": "red"},
        ),
        lines(
            "Connections and channels",
            {
                "connections": "sum(rabbitmq_connections)",
                "channels": "sum(rabbitmq_channels)",
            },
            "A steady rise is a client that opens anew for each message.",
            width=12,
        ),
    ]
