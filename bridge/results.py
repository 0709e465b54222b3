"""Results in Redis, under the bare task id, as stock taskiq-redis keeps them; and pushed.

Enters: a finished task's result. Leaves: the same bytes for whoever reads it, at once where the
caller said (label `reply_to`) on which channel it listens.
"""

import re
from typing import Any

import msgpack
from redis.asyncio import Redis
from taskiq import TaskiqResult
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend
from taskiq_redis.exceptions import ResultIsMissingError

from bridge.errors import MalformedMessageError
from bridge.messages import decode_result, encode_result
from bridge.settings import Settings

REPLY_TO = "reply_to"
"""Label with the token of the channel on which the caller listens."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# A slow listener is cut off by Redis when its buffer is full (client-output-buffer-limit):
# larger results are announced, and read from their key.
_PUSHED_BYTES = 64 * 1024


def reply_channel(token: str) -> str:
    """The Redis channel of a caller's token."""
    return f"bridge:reply:{token}"


def decode_push(data: bytes) -> tuple[str, bytes | None]:
    """A pushed message: the task's id, and its result unless that is to be read.

    Raises:
        MalformedMessageError: somebody else wrote on the channel.
    """
    try:
        task_id, value = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MalformedMessageError(f"not a pushed result: {error}") from None
    return str(task_id), value if isinstance(value, bytes) else None


class RedisResults(RedisAsyncResultBackend[Any]):
    """taskiq's result backend with a safe serializer, an expiry, and a push to the caller."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.redis_url.get_secret_value(),
            result_ex_time=settings.bridge_result_ttl_s,
            serializer=JSONSerializer(),  # of progress; results have `encode_result`
        )

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Save, and tell the caller, in one round trip."""
        value = encode_result(result)
        token = result.labels.get(REPLY_TO)
        async with Redis(connection_pool=self.redis_pool) as redis:
            if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                await redis.set(task_id, value, ex=self.result_ex_time)
                return
            pushed = value if len(value) <= _PUSHED_BYTES else None
            async with redis.pipeline(transaction=False) as pipe:
                pipe.set(task_id, value, ex=self.result_ex_time)
                pipe.publish(reply_channel(token), msgpack.packb((task_id, pushed)))
                await pipe.execute()

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:  # noqa: FBT001, FBT002, ARG002 - taskiq's signature
        """Read a result.

        Raises:
            ResultIsMissingError: there is none (yet, or any more).
        """
        async with Redis(connection_pool=self.redis_pool) as redis:
            value: Any = await redis.get(task_id)
        if value is None:
            raise ResultIsMissingError
        return decode_result(value)
