"""Redis away: one sentence with the address and what to look at, or it is asked again."""

import pytest
from redis import exceptions

from bridge import channels
from bridge.embedded.redis import RedisServer
from bridge.errors import QueueError
from bridge.queues.reach import redis_away, using_redis
from bridge.settings import Settings


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (exceptions.ConnectionError("refused"), "check REDIS_URL"),
        (OSError("refused"), "check REDIS_URL"),
        (RuntimeError("closed"), "if it speaks TLS there, set rediss:// in REDIS_URL"),
        (exceptions.AuthenticationError("no"), "check user and password in REDIS_URL"),
        (
            exceptions.ResponseError(
                "Command # 1: command not allowed when used memory > 'maxmemory'"
            ),
            "it is full: docs/runbook.md, RedisNearLimit, says how to make room",
        ),
    ],
)
def test_redis_away_is_one_sentence(error, advice):
    with pytest.raises(QueueError) as caught, using_redis("redis://there:6379/0"):
        raise error
    assert str(caught.value) == f"cannot use Redis at redis://there:6379/0 ({error}); {advice}"


def test_a_server_that_says_nothing_may_not_speak_tls():
    with pytest.raises(QueueError) as caught, using_redis("rediss://there:6379/0"):
        raise exceptions.TimeoutError("Timeout connecting to server")
    assert str(caught.value).endswith("check REDIS_URL: does it speak TLS there?")


async def test_a_redis_that_refuses_is_an_error_and_one_that_is_away_is_not(state):
    async with RedisServer(state) as server:
        assert await redis_away(Settings(redis_url=server.url)) is None
        address = f"redis://:wrong-hidden@{server.address}/0"
        with pytest.raises(QueueError, match="check user and password in REDIS_URL") as caught:
            await redis_away(Settings(redis_url=address))
        assert "wrong-hidden" not in str(caught.value)
        with pytest.raises(QueueError, match="check user and password in REDIS_URL"):
            await redis_away(Settings(redis_url=f"redis://{server.address}/0"))
        with pytest.raises(QueueError, match="DB index is out of range"):
            await redis_away(Settings(redis_url=server.url.removesuffix("/0") + "/99"))
    assert "check REDIS_URL" in str(await redis_away(Settings(redis_url=server.url)))


def test_what_is_not_of_redis_passes():
    with pytest.raises(ZeroDivisionError), using_redis("redis://there:6379/0"):
        raise ZeroDivisionError


async def test_it_is_asked_until_it_answers_and_that_is_told(monkeypatch, caplog):
    monkeypatch.setattr(channels, "_ASK_AGAIN_S", 0.0)
    answers = [exceptions.ConnectionError("refused"), RuntimeError("closed")]

    async def ask():
        if answers:
            raise answers.pop(0)
        return 5

    assert await channels.until_answered(ask, "who trains abc") == 5
    assert [record.getMessage() for record in caplog.records] == [
        "cannot ask Redis who trains abc, trying again: refused",
        "cannot ask Redis who trains abc, trying again: closed",
    ]
