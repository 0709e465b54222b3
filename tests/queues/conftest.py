"""The other end of AMQP, as RabbitMQ is when all is not well: what a real one cannot be made to do.

It keeps no messages: what is published to an exchange that is there is confirmed, and gone.
"""

import asyncio
import contextlib
from collections import Counter

import aio_pika
import pamqp.frame
import pytest
from pamqp import commands as amqp

from bridge.settings import Settings

_ABILITIES = {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}
_PLAIN_REPLIES = {
    amqp.Connection.Open: amqp.Connection.OpenOk,
    amqp.Connection.Close: amqp.Connection.CloseOk,
    amqp.Channel.Open: amqp.Channel.OpenOk,
    amqp.Channel.Close: amqp.Channel.CloseOk,
    amqp.Confirm.Select: amqp.Confirm.SelectOk,
    amqp.Basic.Qos: amqp.Basic.QosOk,
    amqp.Queue.Bind: amqp.Queue.BindOk,
}


class Line:
    """One connection to the peer."""

    def __init__(self, peer, reader, writer):
        self.peer, self.reader, self.writer = peer, reader, writer
        self.open = set()
        self.consumers = {}
        self.published = Counter()
        self.publishing = {}

    def say(self, channel, frame):
        self.writer.write(pamqp.frame.marshal(frame, channel))

    def refuse(self, channel, code):
        self.open.discard(channel)
        self.say(channel, amqp.Channel.Close(code, "as the test wants it", 0, 0))

    async def serve(self):
        await self.reader.readexactly(8)  # AMQP's own greeting
        start = amqp.Connection.Start(
            server_properties={"capabilities": _ABILITIES}, mechanisms="PLAIN", locales="en_US"
        )
        self.say(0, start)
        while True:
            head = await self.reader.readexactly(7)
            rest = await self.reader.readexactly(int.from_bytes(head[3:]) + 1)
            _, channel, frame = pamqp.frame.unmarshal(head + rest)
            self.peer.asked[frame.name] += 1
            if not self.peer.mute:
                self.answer(channel, frame)

    def answer(self, channel, frame):
        if channel and channel not in self.open and not isinstance(frame, amqp.Channel.Open):
            return  # it was refused before
        getattr(self, f"on_{frame.name.replace('.', '_').lower()}", lambda *_: None)(channel, frame)
        if type(frame) in _PLAIN_REPLIES:
            self.say(channel, _PLAIN_REPLIES[type(frame)]())

    def on_connection_startok(self, channel, frame):
        self.say(0, amqp.Connection.Tune(2047, 131072, 60))

    def on_heartbeat(self, channel, frame):
        self.say(0, frame)

    def on_channel_open(self, channel, frame):
        self.open.add(channel)
        self.published[channel] = 0

    def on_channel_close(self, channel, frame):
        self.open.discard(channel)

    def on_exchange_declare(self, channel, frame):
        if self.there(channel, frame, frame.exchange, self.peer.exchanges):
            self.say(channel, amqp.Exchange.DeclareOk())

    def on_queue_declare(self, channel, frame):
        if self.there(channel, frame, frame.queue, self.peer.queues):
            self.say(channel, amqp.Queue.DeclareOk(frame.queue, self.peer.waiting, 0))

    def on_basic_consume(self, channel, frame):
        if frame.queue in self.peer.queues:
            self.consumers[frame.consumer_tag] = channel
            self.say(channel, amqp.Basic.ConsumeOk(frame.consumer_tag))
        else:
            self.refuse(channel, 404)

    def on_basic_cancel(self, channel, frame):
        self.consumers.pop(frame.consumer_tag, None)
        self.say(channel, amqp.Basic.CancelOk(frame.consumer_tag))

    def on_basic_publish(self, channel, frame):
        self.publishing[channel] = frame.exchange

    def on_contentheader(self, channel, frame):
        if not frame.body_size:
            self.take(channel)

    def on_contentbody(self, channel, frame):
        self.take(channel)  # what tests publish is one frame

    def there(self, channel, frame, name, known):
        if frame.passive and name not in known:
            self.refuse(channel, 404)
            return False
        if not frame.passive and name in self.peer.different:
            self.refuse(channel, 406)
            return False
        known.add(name)
        return True

    def take(self, channel):
        exchange = self.publishing.pop(channel)
        self.published[channel] += 1
        if exchange and exchange not in self.peer.exchanges:
            self.refuse(channel, 404)
        elif self.peer.full:
            self.say(channel, amqp.Basic.Nack(self.published[channel]))
        elif self.peer.confirms:
            self.say(channel, amqp.Basic.Ack(self.published[channel]))


class Peer:
    """What is there, what was asked, and how it behaves; a test changes it as it likes."""

    def __init__(self):
        self.queues, self.exchanges, self.waiting = set(), set(), 0
        self.different = set()
        """Names of queues and exchanges that were declared otherwise than we would."""
        self.asked = Counter()
        self.mute = False
        """Answers nothing, heartbeats neither: as behind a cable that was cut."""
        self.full = False
        """Refuses messages, as a queue with `reject-publish` does that is full."""
        self.confirms = True
        """False: takes messages, and does not say so; all else goes on."""
        self.lines = []

    @property
    def open_channels(self):
        return sum(len(line.open) for line in self.lines)

    def lose(self, queue):
        """Delete a queue, and tell those who consume it."""
        self.queues.discard(queue)
        for line in self.lines:
            for tag, channel in line.consumers.items():
                line.say(channel, amqp.Basic.Cancel(tag, nowait=True))
            line.consumers.clear()

    async def serve(self, reader, writer):
        line = Line(self, reader, writer)
        self.lines.append(line)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await line.serve()
        self.lines.remove(line)
        writer.close()


@pytest.fixture
async def peer():
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    yield peer
    peer.mute = False
    server.close()
    async with asyncio.timeout(10):
        while peer.lines:
            for line in peer.lines:
                line.writer.close()
            await asyncio.sleep(0.01)


@pytest.fixture
def url(peer):
    """Of the peer; who hears nothing for 2 to 3 s gives a connection up."""
    return f"amqp://guest:guest@127.0.0.1:{peer.port}/?heartbeat=1"


@pytest.fixture
async def connection(url):
    """A robust one, as taskiq's broker has them."""
    connection = await aio_pika.connect_robust(url, reconnect_interval=0.1, timeout=1)
    async with connection:
        yield connection


@pytest.fixture
def settings(peer):
    """Of a broker or worker on the peer."""
    return Settings(rabbitmq_host="127.0.0.1", rabbitmq_port=peer.port)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("aiormq.connection.Connection.HEARTBEAT_GRACE_MULTIPLIER", 1)
    monkeypatch.setattr("bridge.queues.rabbitmq.CONNECT_S", 1.0)
