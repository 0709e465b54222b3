"""A channel for a question or a declaration, and no longer.

Enters: a connection of aio-pika's, robust or not. Leaves: a channel of aiormq's, below aio-pika's
own. Those stay with their connection for as long as it lives, and a robust one comes back whenever
a refusal has closed it, with all that was ever declared on it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel

from bridge.stopping import told_to_stop

REPLY_S = 10.0


@asynccontextmanager
async def plain_channel(connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
    """A channel as long as the block lasts, without confirmations; a refusal closes it.

    Raises:
        ConnectionError: there is no connection now, or it has fallen silent.
        TimeoutError: the block took longer than 10 seconds.
    """
    transport = connection.transport
    if transport is None:
        raise ConnectionError("there is no connection to RabbitMQ now")
    try:
        async with asyncio.timeout(REPLY_S):
            channel = await transport.connection.channel(publisher_confirms=False)
            try:
                yield channel
            finally:
                await channel.close()
    except asyncio.CancelledError as error:
        if told_to_stop(error):
            raise
        raise ConnectionError("the connection to RabbitMQ has fallen silent") from error
