"""Results in Redis, under the bare task id, as stock taskiq-redis keeps them; and pushed.

Enters: a finished task's result. Leaves: the same bytes for whoever reads it, at once where the
caller said (label `reply_to`) on which channel it listens.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Any

import msgpack
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from taskiq import TaskiqResult
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend
from taskiq_redis.exceptions import ResultIsMissingError

from bridge.advice import redis_advice
from bridge.background import end
from bridge.cancellations import Cancellations
from bridge.channels import leave_replica
from bridge.errors import MalformedMessageError
from bridge.messages import decode_result, encode_result
from bridge.names import DEAD_LETTERS, is_task_id
from bridge.settings import Settings
from bridge.tracing import tracer

REPLY_TO = "reply_to"
"""Label with the token of the channel on which the caller listens."""

logger = logging.getLogger("bridge.results")

_RETRY_S, _RETRY_MOST_S = 0.1, 2.0
_ANSWER_S = 10.0  # a connection that is silent for so long is made anew
_ASKING = 16
_TOGETHER, _TOGETHER_BYTES = 256, 16 * 2**20
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# A slow listener is cut off by Redis when its buffer is full (client-output-buffer-limit):
# larger results are announced, and read from their key.
_PUSHED_BYTES = 64 * 1024
# KEYS: task ids. ARGV: seconds to keep, then for each id its value, the channel on which somebody
# listens ('': nobody does) and what to push. Answers for each id 1; or 0: it had a record, nothing
# is kept, and the listener is told to read (an id without a value); or why Redis refused.
_SAVE = """
local answers = {}
for i, id in ipairs(KEYS) do
  local value, channel, push = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local first = redis.pcall('SET', id, value, 'EX', ARGV[1], 'NX')
  if first and first.err then
    answers[i] = first.err
  else
    if channel ~= '' then
      redis.pcall('PUBLISH', channel, first and push or cmsgpack.pack({id, false}))
    end
    answers[i] = first and 1 or 0
  end
end
return answers
"""


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


class _Pending:
    """One result on its way into Redis."""

    __slots__ = ("push", "saved", "task_id", "value")

    def __init__(self, task_id: str, value: bytes, token: Any) -> None:
        self.task_id = task_id
        self.value = value
        self.push: tuple[str | bytes, str | bytes] = ("", "")
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            pushed = value if len(value) <= _PUSHED_BYTES else None
            self.push = (reply_channel(token), msgpack.packb((task_id, pushed)))
        self.saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class RedisResults(RedisAsyncResultBackend[Any]):
    """taskiq's result backend with a safe serializer, an expiry, and a push to the caller.

    A task has one record: the first. What comes later for the same id is not kept.

    Saving is pipelined over tasks: what gathers while one round trip is out goes with the next.
    While Redis is away or full, results are kept and tried again; `save` returns when they are
    there. So a message that is acknowledged after `save` never loses its result.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings.redis_connect_url,
            result_ex_time=settings.bridge_result_ttl_s,
            serializer=JSONSerializer(),  # of progress; results have `encode_result`
        )
        queues = (settings.taskiq_ml_queue, settings.taskiq_ml_training_queue)
        self._taken = {key for queue in queues for key in (queue, f"{queue}{DEAD_LETTERS}")}
        # The hot path's own: taskiq-redis's blocking pool costs a lock and a timer for each use.
        self._redis: Redis = Redis.from_url(
            settings.redis_connect_url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S
        )
        self._script: Any = self._redis.register_script(_SAVE)  # whose answer has no type
        self.cancellations = Cancellations(self._redis, settings.bridge_result_ttl_s)
        self._shown = settings.redis_shown
        self._asking = asyncio.Semaphore(_ASKING)
        self._pending: list[_Pending] = []
        self._writer: asyncio.Task[None] | None = None

    def refuses(self, task_id: str) -> bool:
        """Whether a result must not be written under this id.

        The id is the key, and it comes from a message: it must not name a key that is not a
        result, such as a queue where Redis holds these, nor be without bound.
        """
        return task_id in self._taken or not is_task_id(task_id)

    async def save(self, task_id: str, value: bytes, token: Any = None) -> None:
        """Keep an encoded result, and push it to the caller.

        Args:
            task_id: the key.
            value: what `encode_result` wrote.
            token: of the caller's channel; anything else is ignored.
        """
        pending = _Pending(task_id, value, token)
        self._pending.append(pending)
        if self._writer is None or self._writer.done():
            # Nobody's context: it writes the results of many.
            self._writer = asyncio.create_task(self._write(), context=Context())
        with tracer().saving():
            await pending.saved

    @property
    def redis(self) -> Redis:
        """The connections, for what else a worker does in Redis."""
        return self._redis

    @property
    def waiting(self) -> int:
        """Results that Redis has not taken yet."""
        return len(self._pending)

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        """Taskiq's way to `save`."""
        await self.save(task_id, encode_result(result), result.labels.get(REPLY_TO))
        if result.error is not None:
            _let_go(result.error)

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:  # noqa: FBT001, FBT002, ARG002 - taskiq's signature
        """Read a result.

        Raises:
            ResultIsMissingError: there is none (yet, or any more).
        """
        value: Any = await self._redis.get(task_id)
        if value is None:
            raise ResultIsMissingError
        return decode_result(value)

    async def shutdown(self) -> None:
        """Close the connections; what could not be saved yet stays unacknowledged."""
        if self._writer is not None:
            await end(self._writer)
        await self.cancellations.close()
        await self._redis.aclose()
        await super().shutdown()

    async def is_result_ready(self, task_id: str) -> bool:
        """Whether the task has a result. Waits for a Redis that is away."""
        return bool(await self._asked(lambda: self._redis.exists(task_id)))

    async def kept(self, task_id: str) -> TaskiqResult[Any] | None:
        """The task's result, if it has one. Waits for a Redis that is away."""
        value = await self._asked(lambda: self._redis.get(task_id))
        if value is None:
            return None
        with contextlib.suppress(MalformedMessageError):  # somebody else's
            return decode_result(value)
        return None

    async def _asked(self, ask: Callable[[], Any]) -> Any:
        async with self._asking:  # thousands of messages may be redelivered at once
            while True:
                try:
                    return await ask()
                except Exception as error:  # noqa: BLE001 - as `_write`
                    logger.warning(
                        "cannot ask Redis for a result, trying again: %s; %s",
                        error,
                        redis_advice(error, self._shown),
                    )
                    await asyncio.sleep(_RETRY_MOST_S)

    async def _write(self) -> None:
        pause_s = _RETRY_S
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                failures = await self._round_trip(batch)
            except Exception as error:  # noqa: BLE001 - uvloop has RuntimeErrors for a cut connection
                failures = dict.fromkeys(batch, error)
            if not failures:
                pause_s = _RETRY_S
                continue
            self._pending = [*failures, *self._pending]
            failure = next(iter(failures.values()))
            logger.warning(
                "Redis did not take %d results, trying again in %.1f s: %s; %s",
                len(failures),
                pause_s,
                failure,
                redis_advice(failure, self._shown),
            )
            await leave_replica(self._redis, failure)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RETRY_MOST_S)

    async def _round_trip(self, batch: list[_Pending]) -> dict[_Pending, Exception]:
        """Write a batch and tell the callers; return what Redis refused to keep, and why.

        A push that is lost costs a second: callers also read.
        """
        failures: dict[_Pending, Exception] = {}
        for together in _bounded(batch):
            answers = await self._saved(together)
            for item, answer in zip(together, answers, strict=True):
                if isinstance(answer, bytes):
                    failures[item] = ResponseError(answer.decode(errors="replace"))
                elif not item.saved.done():
                    item.saved.set_result(None)
        return failures

    async def _saved(self, batch: list[_Pending]) -> list[int | bytes]:
        keys = [item.task_id for item in batch]
        each = (part for item in batch for part in (item.value, *item.push))
        answers: list[int | bytes] = await self._script(keys, (self.result_ex_time, *each))
        return answers


def _bounded(batch: list[_Pending]) -> Iterator[list[_Pending]]:
    """Parts of so many results, and bytes, as Redis takes in one command; one at least."""
    part: list[_Pending] = []
    size = 0
    for item in batch:
        size += len(item.value)
        if part and (size > _TOGETHER_BYTES or len(part) == _TOGETHER):
            yield part
            part, size = [], len(item.value)
        part.append(item)
    yield part


def _let_go(error: BaseException) -> None:
    """Clear the frame in which taskiq's receiver caught the error of a task that has ended.

    It holds that very traceback, beside the message: both would stay until the collector comes.
    No other frame: a user's error may have come through a coroutine that is suspended, and clearing
    the frame of one ends it.
    """
    trace = error.__traceback__
    if trace is not None and trace.tb_frame.f_code.co_qualname == "Receiver.run_task":
        with contextlib.suppress(RuntimeError):  # it runs still
            trace.tb_frame.clear()
