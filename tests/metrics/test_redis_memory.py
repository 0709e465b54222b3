"""How full Redis is, as a worker tells it, if it may ask."""

import pytest
from redis.exceptions import NoPermissionError

from bridge.tasks.health import _memory_of


class FakeRedis:
    def __init__(self, told):
        self._told = told

    async def info(self, section):
        assert section == "memory"
        if self._told is None:
            raise NoPermissionError
        return self._told


@pytest.mark.parametrize(
    ("told", "figures"),
    [
        (
            {"used_memory": 700, "maxmemory": 1000},
            {"bridge_redis_memory_bytes": 700, "bridge_redis_memory_limit_bytes": 1000},
        ),
        ({"used_memory": 700, "maxmemory": 0}, {"bridge_redis_memory_bytes": 700}),
        (None, {}),  # a user without +info
    ],
)
async def test_what_redis_uses_and_may_use(told, figures):
    found = await _memory_of(FakeRedis(told))
    assert {name: value for name, labels, value in found if labels == ()} == figures
