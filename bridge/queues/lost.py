"""Whether an error of the AMQP library's says that the connection is gone. No I/O."""

import asyncio

from aiormq.exceptions import AMQPError

from bridge.stopping import told_to_stop


def is_lost(error: BaseException) -> bool:
    """Whether to try again with another connection; call it in the task that caught the error.

    What waits while a connection is closed without a reason gets a bare `Exception`
    (aiormq.base.FutureStore.reject_all), and CancelledError where it has fallen silent.
    """
    if isinstance(error, asyncio.CancelledError):
        return not told_to_stop(error)
    lost = (AMQPError, OSError, RuntimeError, TimeoutError)
    return isinstance(error, lost) or type(error) is Exception
