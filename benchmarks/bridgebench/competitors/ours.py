"""The bridge: one worker process, started by our own command."""

from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.queues import build_broker
from bridge.tensors import Array
from bridgebench.competitors.protocol import Competitor
from bridgebench.competitors.taskiq_layout import binary_mail, json_mail, taskiq_output
from bridgebench.ground import Ground
from bridgebench.posting import Mail


class OursJson(Competitor):
    """Messages as any JSON producer sends them."""

    key = "ours_json"
    title = "ours, JSON"

    def __init__(self, ground: Ground, workers: int = 1) -> None:
        super().__init__(ground)
        self.queue = ground.settings.taskiq_ml_queue
        self._workers = workers

    async def declare(self) -> None:
        """As our broker does."""
        broker = build_broker(self.ground.settings, "inference")
        await broker.startup()
        await broker.shutdown()

    def mail(self, index: int) -> Mail:
        """A task."""
        return json_mail(index, self.ground.models.row(index))

    def worker(self) -> Server:
        """Our pool."""
        return self.ground.bridge_workers(self._workers)

    async def output(self, redis: Redis, mail: Mail) -> Array:
        """From Redis."""
        return await taskiq_output(redis, mail)


class OursBinary(OursJson):
    """Messages as `BridgeClient` sends them."""

    key = "ours_binary"
    title = "ours, binary"

    def mail(self, index: int) -> Mail:
        """A task."""
        return binary_mail(index, self.ground.models.row(index))
