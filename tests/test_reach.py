"""Redis away: one sentence with the address and what to look at, or it is asked again."""

import pytest
from redis import exceptions

from bridge import channels
from bridge.errors import QueueError
from bridge.queues.reach import using_redis


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
