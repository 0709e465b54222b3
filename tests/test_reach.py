"""Whatever Redis' client raises becomes one sentence with the address, and what to look at."""

import pytest
from redis import exceptions

from bridge.errors import QueueError
from bridge.queues.reach import using_redis


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (exceptions.ConnectionError("refused"), "check REDIS_URL"),
        (OSError("refused"), "check REDIS_URL"),
        (RuntimeError("closed"), "if it speaks TLS there, set rediss:// in REDIS_URL"),
        (exceptions.AuthenticationError("no"), "check user and password in REDIS_URL"),
    ],
)
def test_redis_away_is_one_sentence(error, advice):
    with pytest.raises(QueueError) as caught, using_redis("redis://there:6379/0"):
        raise error
    assert str(caught.value) == f"cannot use Redis at redis://there:6379/0 ({error}); {advice}"


def test_what_is_not_of_redis_passes():
    with pytest.raises(ZeroDivisionError), using_redis("redis://there:6379/0"):
        raise ZeroDivisionError
