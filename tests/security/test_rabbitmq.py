"""RabbitMQ over TLS that asks for a client certificate, and what is said where it fails."""

import pytest

from bridge.errors import QueueError
from bridge.queues import build_broker, queue_depths


@pytest.fixture
def variables(environment):
    return {name: it for name, it in environment.items() if name.startswith(("RABBIT", "REDIS"))}


async def complaints(settings):
    """What the broker says, and what `mlbridge status` would."""
    broker = build_broker(settings, "inference")
    with pytest.raises(QueueError) as brokers:
        await broker.startup()
    await broker.shutdown()
    with pytest.raises(QueueError) as depths:
        await queue_depths(settings)
    return str(brokers.value), str(depths.value)


async def test_with_our_certificate_we_are_let_in(variables, settings_of):
    settings = settings_of(variables)
    broker = build_broker(settings, "inference")
    await broker.startup()
    await broker.shutdown()
    assert "taskiq_ml" in [depth.name for depth in await queue_depths(settings)]


async def test_a_wrong_authority_names_the_file(variables, settings_of, certificates):
    wrong = certificates.variables("RABBITMQ", ca=certificates.other_ca)
    machines_own = certificates.variables("RABBITMQ", ca=None)
    for files in (wrong, machines_own):
        for said in await complaints(settings_of(variables, files)):
            assert "check RABBITMQ_CA_FILE" in said


@pytest.mark.parametrize("pair", [None, "stranger"])
async def test_without_our_certificate_nobody_is_let_in(variables, settings_of, certificates, pair):
    pair = pair and getattr(certificates, pair)
    wrong = certificates.variables("RABBITMQ", pair=pair)
    for said in await complaints(settings_of(variables, wrong)):
        assert "check RABBITMQ_CERT_FILE" in said  # reset, or an alert, whichever comes first


async def test_a_certificate_for_another_name_is_refused(
    variables, settings_of, certificates, secure_rabbitmq, tls_door
):
    async with tls_door(secure_rabbitmq.port, certificates.elsewhere, None) as door:
        for said in await complaints(settings_of(variables, RABBITMQ_PORT=str(door.port))):
            assert "RABBITMQ_HOST" in said
            assert "not valid for '127.0.0.1'" in said


async def test_a_wrong_password_or_host_is_named_and_not_shown(variables, settings_of):
    for said in await complaints(settings_of(variables, RABBITMQ_PASSWORD="hidden-rabbit")):
        assert "RABBITMQ_PASSWORD" in said
        assert "hidden" not in said
    for said in await complaints(settings_of(variables, RABBITMQ_VHOST="nowhere")):
        assert "check RABBITMQ_VHOST" in said


async def test_tls_on_one_side_only_is_said(variables, settings_of, secure_rabbitmq, certificates):
    none = certificates.variables("RABBITMQ", ca=None, pair=None)
    for said in await complaints(settings_of(variables, none, RABBITMQ_TLS="false")):
        assert "set RABBITMQ_TLS" in said
    for said in await complaints(settings_of(variables, RABBITMQ_PORT=str(secure_rabbitmq.port))):
        assert "does it speak TLS there" in said
