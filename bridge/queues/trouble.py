"""What the client libraries raised, as one sentence that says what to look at."""

import aiormq.exceptions
from taskiq_aio_pika.exceptions import BaseAioPikaBrokerError

from bridge.advice import RABBITMQ, redis_advice, tls_advice
from bridge.errors import QueueError


def rabbitmq_trouble(error: Exception, where: str) -> QueueError:
    """The error to raise when a connection cannot be made, or not be used.

    Args:
        error: what aio-pika raised.
        where: the address, as a person may see it.
    """
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return QueueError(
            f"RabbitMQ at {where} refuses the user: check RABBITMQ_USERNAME, RABBITMQ_PASSWORD and "
            "the user's rights on RABBITMQ_VHOST"
        )
    if isinstance(error, aiormq.exceptions.InvalidFrameError):  # a Close where it should open
        return QueueError(
            f"RabbitMQ at {where} does not open the virtual host: check RABBITMQ_VHOST and the "
            "rights of RABBITMQ_USERNAME on it"
        )
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return QueueError(
            f"RabbitMQ at {where} refuses: {error}; give RABBITMQ_USERNAME the rights that "
            "docs/security.md lists"
        )
    if isinstance(error, (aiormq.exceptions.ChannelNotFoundEntity, BaseAioPikaBrokerError)):
        return QueueError(
            f"RabbitMQ at {where} lacks what this user may not declare ({error}): start a worker "
            "first, whose user may"
        )
    encrypted = where.startswith("amqps:")
    advice = tls_advice(str(error), RABBITMQ, encrypted=encrypted) or (
        "check RABBITMQ_HOST, RABBITMQ_PORT and RABBITMQ_VHOST"
    )
    said = str(error) or "no answer in time"  # TimeoutError has no text of its own
    return QueueError(f"cannot use RabbitMQ at {where} ({type(error).__name__}: {said}); {advice}")


def not_taken(error: aiormq.exceptions.DeliveryError, where: str, exchange: str) -> QueueError:
    """The error to raise when RabbitMQ answers that it did not take a task.

    Args:
        error: what aio-pika raised.
        where: the address, as a person may see it.
        exchange: to which the task was sent.
    """
    if isinstance(error, aiormq.exceptions.PublishError):  # it came back
        return QueueError(
            f"RabbitMQ at {where} has no queue for the task: is one bound to {exchange!r}?"
        )
    return QueueError(
        f"RabbitMQ at {where} refuses the task: its queue is full (a policy with `max-length` or "
        "`max-length-bytes`), or too few of the queue's nodes are up; try again later"
    )


def redis_trouble(error: Exception, where: str) -> QueueError:
    """The error to raise when Redis cannot be used.

    Args:
        error: what redis-py raised.
        where: the address, as a person may see it.
    """
    return QueueError(f"cannot use Redis at {where} ({error}); {redis_advice(error, where)}")


def redis_refuses(error: Exception) -> bool:
    """Whether waiting does not help: Redis refuses the user, or does not have the database."""
    return type(error).__name__.startswith("Authentication") or "DB index" in str(error)
