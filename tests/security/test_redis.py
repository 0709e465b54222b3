"""Redis over TLS that asks for a client certificate: every place that connects to it."""

import asyncio

import pytest

from bridge.client import BridgeClient
from bridge.embedded.parts import redis_runs
from bridge.errors import PayloadStoreError, QueueError
from bridge.overview.parts import UP, find_redis
from bridge.payloads import open_payloads
from bridge.queues import queue_depths
from bridge.results import RedisResults

DATA = {"x": ("UINT8", (3,), b"123")}


@pytest.fixture
def variables(environment, users_redis, redis_door):
    """All in Redis, for a user who may do everything."""
    url = users_redis.url.replace("redis:", "rediss:").replace(
        f":{users_redis.port}/", f":{redis_door.port}/"
    )
    files = {name: it for name, it in environment.items() if name.startswith("REDIS")}
    return files | {"REDIS_URL": url, "BRIDGE_PAYLOAD_URL": url, "BRIDGE_QUEUE": "redis-streams"}


async def complaints(settings):
    """What each place says that connects: client, depths, payload store, status."""

    async def said(error, fails):
        with pytest.raises(error) as caught:
            await fails()
        return str(caught.value)

    async def enter():
        async with BridgeClient(settings):
            pass

    payloads = open_payloads(settings)
    # Side by side, as redis-py tries each several times.
    found = await asyncio.gather(
        said(QueueError, enter),
        said(QueueError, lambda: queue_depths(settings)),
        said(PayloadStoreError, lambda: payloads.put("input", DATA)),
        find_redis(settings),
    )
    await payloads.close()
    return [*found[:-1], found[-1].state]


async def test_everything_goes_through(variables, settings_of):
    settings = settings_of(variables)
    async with BridgeClient(settings) as client:  # results, replies, the broker of streams
        assert await client.progress("nobody") is None
    assert "taskiq_ml" in [depth.name for depth in await queue_depths(settings)]
    assert (await find_redis(settings)).state == UP
    assert await redis_runs(settings)
    payloads = open_payloads(settings)
    stored = await payloads.put("input", DATA)
    assert (await payloads.get("input", stored))["x"].data == b"123"
    await payloads.close()
    results = RedisResults(settings)
    await results.save("saved-over-tls", b"{}")
    assert await results.is_result_ready("saved-over-tls")
    await results.shutdown()


async def test_files_may_stand_in_the_url_too(variables, settings_of, certificates):
    none = certificates.variables("REDIS", ca=None, pair=None)
    cert, key = certificates.client
    options = f"?ssl_ca_certs={certificates.ca}&ssl_certfile={cert}&ssl_keyfile={key}"
    url = variables["REDIS_URL"] + options
    assert (await find_redis(settings_of(variables, none, REDIS_URL=url))).state == UP
    # and win over the variables
    wrong = certificates.variables("REDIS", ca=certificates.other_ca, pair=certificates.stranger)
    assert (await find_redis(settings_of(variables, wrong, REDIS_URL=url))).state == UP


async def test_a_wrong_authority_names_the_file(variables, settings_of, certificates):
    wrong = certificates.variables("REDIS", ca=certificates.other_ca)
    for said in await complaints(settings_of(variables, wrong)):
        assert "check REDIS_CA_FILE" in said


@pytest.mark.parametrize("pair", [None, "stranger"])
async def test_without_our_certificate_nobody_is_let_in(variables, settings_of, certificates, pair):
    pair = pair and getattr(certificates, pair)
    wrong = certificates.variables("REDIS", pair=pair)
    for said in await complaints(settings_of(variables, wrong)):
        assert "REDIS_CERT_FILE" in said


async def test_a_certificate_for_another_name_is_refused(
    variables, settings_of, certificates, users_redis, redis_door, tls_door
):
    async with tls_door(users_redis.port, certificates.elsewhere, None) as door:
        url = variables["REDIS_URL"].replace(str(redis_door.port), str(door.port))
        both = {"REDIS_URL": url, "BRIDGE_PAYLOAD_URL": url}
        for said in await complaints(settings_of(variables, both)):
            assert "is not valid for '127.0.0.1'" in said


async def test_a_wrong_password_is_named_and_not_shown(variables, settings_of, redis_door):
    url = f"rediss://:hidden-redis@127.0.0.1:{redis_door.port}/0"
    both = {"REDIS_URL": url, "BRIDGE_PAYLOAD_URL": url}
    for said in await complaints(settings_of(variables, both)):
        assert "check user and password in" in said
        assert "hidden" not in said
