"""Whether an error of the AMQP library's says that the connection is gone. Pure."""

from aiormq.exceptions import AMQPError


def is_lost(error: Exception) -> bool:
    """Whether to try again with another connection.

    What waits while a connection is closed without a reason gets a bare `Exception`
    (aiormq.base.FutureStore.reject_all).
    """
    lost = (AMQPError, OSError, RuntimeError, TimeoutError)
    return isinstance(error, lost) or type(error) is Exception
