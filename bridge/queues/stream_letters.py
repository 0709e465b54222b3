"""Dead letters on Redis Streams.

Enters: a Redis, a stream's name. Leaves: its entries. Looking takes nothing away; a replay is one
script, so that an entry is in one of the two streams, whatever ends.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.names import DEAD_LETTERS
from bridge.queues.letters import Letter, Letters, Opened, read_letter
from bridge.queues.trouble import redis_trouble
from bridge.settings import Settings

_AT_FIRST = 16
_BYTES_AT_ONCE = 16 * 2**20
_AT_MOST = 1000
_REPLAY = """
local entry = redis.call('xrange', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 'somebody else took it' end
if redis.call('exists', KEYS[2]) == 0 then return 'there is no queue ' .. KEYS[2] end
for i = 1, #entry[2], 2 do
  if entry[2][i] == 'data' then
    redis.call('xadd', KEYS[2], '*', 'data', entry[2][i + 1])
    redis.call('xdel', KEYS[1], ARGV[1])
    return false
  end
end
return 'it has no field data'
"""


class StreamLetters:
    """The dead letters of one queue that is a Redis stream."""

    def __init__(self, redis: Redis, queue: str, prefix: str) -> None:
        """Nothing is asked yet.

        Args:
            redis: closed by its owner.
            queue: of dead letters.
            prefix: of their positions.
        """
        self.queue = queue
        self.prefix = prefix
        self._redis = redis

    async def count(self) -> int | None:
        """How many lie there; None: the stream does not exist."""
        if not await self._redis.exists(self.queue):
            return None
        return int(await self._redis.xlen(self.queue))

    async def look(self) -> AsyncGenerator[Opened, None]:
        """Show each letter that is there now, oldest first."""
        newest: Any = await self._redis.xrevrange(self.queue, count=1)
        if not newest:
            return
        after, seen, size = "-", 0, 0
        while True:
            page = _AT_FIRST if not size else max(1, min(_AT_MOST, _BYTES_AT_ONCE * seen // size))
            entries: Any = await self._redis.xrange(self.queue, after, newest[0][0], page)
            for key, fields in entries:
                seen, after = seen + 1, f"({key.decode()}"
                opened = self._opened(key, fields, seen)
                size += len(opened.body)
                yield opened
            if len(entries) < page:
                return

    async def replay(self, opened: Opened) -> str | None:
        """Move it to the stream from which it came."""
        problem = await self._redis.eval(
            _REPLAY, 2, self.queue, opened.letter.origin, opened.letter.key
        )
        return None if problem is None else problem.decode(errors="replace")

    async def remove(self, letter: Letter) -> None:
        """Delete it."""
        await self._redis.xdel(self.queue, letter.key)

    def _opened(self, key: bytes, fields: dict[bytes, bytes], number: int) -> Opened:
        body = fields.pop(b"data", b"")
        headers: dict[str, Any] = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in fields.items()
        }
        letter = read_letter(self, number, key, headers, body)
        return Opened(letter, body, headers)


@contextlib.asynccontextmanager
async def stream_letters(
    settings: Settings, queues: Iterable[tuple[str, str]]
) -> AsyncIterator[list[Letters]]:
    """The dead letters of several queues.

    Args:
        settings: where Redis is.
        queues: name of each queue, and the prefix of its letters' positions.

    Raises:
        QueueError: Redis cannot be used.
    """
    try:
        async with Redis.from_url(settings.redis_connect_url) as redis:
            yield [
                StreamLetters(redis, f"{queue}{DEAD_LETTERS}", prefix) for queue, prefix in queues
            ]
    except (RedisError, OSError) as error:
        raise redis_trouble(error, settings.redis_shown) from None
