"""Names stay in their folder; the environment is read once, and secrets are not shown."""

from urllib.parse import urlencode

import pytest
import trustme
from opentelemetry.util.re import parse_env_headers

from bridge import errors
from bridge.names import check_name, check_task_id
from bridge.settings import Settings, load_settings


@pytest.mark.parametrize("name", ["digits", "a", "A1._-x", "a..b", "x" * 128])
def test_harmless_names_pass(name):
    assert check_name("model_id", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "a\x00",
        "a b",
        "-a",
        "_a",
        "é",
        "x" * 129,
        5,
        None,
        b"a",
        "a\n",
    ],
)
def test_every_other_name_is_refused(name):
    with pytest.raises(errors.InvalidNameError, match="model_id must be 1 to 128"):
        check_name("model_id", name)


@pytest.mark.parametrize("task_id", ["5f0c", "a", "order:42/7", "../x", "[red]", "~" * 256])
def test_a_task_may_be_called_as_its_producer_likes(task_id):
    assert check_task_id(task_id) == task_id


@pytest.mark.parametrize(
    "task_id",
    ["", "a b", "a\n", "é", "x" * 257, "bridge:cancelled", "autoclaim:x", "x__progress", 5, None],
)
def test_a_task_is_not_called_as_a_key_that_is_no_result(task_id):
    with pytest.raises(errors.InvalidNameError, match="a task's id must be 1 to 256 printable"):
        check_task_id(task_id)


def test_defaults_are_the_documented_ones(monkeypatch):
    for variable in ("ML_WORKER_COUNT", "RABBITMQ_HOST", "REDIS_URL", "TRITON_URL"):
        monkeypatch.delenv(variable, raising=False)
    settings = Settings()
    assert settings.ml_worker_count == 3
    assert settings.rabbitmq_url == "amqp://guest:guest@localhost:5672/%2F"
    assert settings.redis_url.get_secret_value() == "redis://localhost:6379/0"
    assert settings.triton_addresses == ["localhost:8001"]
    assert (settings.taskiq_ml_exchange_type, settings.taskiq_ml_queue_type) == ("topic", "quorum")


def test_passwords_are_quoted_for_the_url_and_never_shown(monkeypatch):
    monkeypatch.setenv("RABBITMQ_PASSWORD", "p@ss/w:rd")
    monkeypatch.setenv("RABBITMQ_VHOST", "ml")
    monkeypatch.setenv("REDIS_URL", "rediss://user:s3cret@redis:6380/2")
    monkeypatch.setenv("TRITON_ADMIN_KEY", "k3y")
    settings = load_settings()
    assert settings.rabbitmq_url == "amqp://guest:p%40ss%2Fw%3Ard@localhost:5672/ml"
    shown = f"{settings!r} {settings.rabbitmq_shown} {settings.redis_shown}"
    assert "redis:6380/2" in settings.redis_shown
    for secret in ("p@ss", "p%40ss", "s3cret", "k3y"):
        assert secret not in shown


def test_tls_is_spelled_as_aio_pika_reads_it(monkeypatch, tmp_path):
    path = tmp_path / "c a.pem"
    trustme.CA().cert_pem.write_to_path(path)
    monkeypatch.setenv("RABBITMQ_TLS", "true")
    monkeypatch.setenv("RABBITMQ_CA_FILE", str(path))
    files = urlencode({"cafile": str(path)})
    assert load_settings().rabbitmq_url.endswith(f"@localhost:5672/%2F?{files}")
    assert load_settings().rabbitmq_url.startswith("amqps://")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ML_WORKER_COUNT", "0"),
        ("RABBITMQ_PORT", "amqp"),
        ("RABBITMQ_PORT", "tcp://10.0.0.7:amqp"),
        ("RABBITMQ_PORT", "udp://10.0.0.7:5672"),
        ("RABBITMQ_PORT", "0"),
        ("RABBITMQ_PORT", "70000"),
        ("TRITON_URL", "triton:0"),
        ("TRITON_URL", "one:8001,two:70000"),
        ("BRIDGE_RESULT_TTL_S", "99999999999999999999"),
        ("BRIDGE_PAYLOAD_TTL_S", "99999999999999999999"),
        ("BRIDGE_CHECKPOINT_KEEP_S", "99999999999999999999"),
        ("BRIDGE_TRAINING_LEASE_S", "1e17"),
        ("BRIDGE_TRAINING_LEASE_S", "inf"),
        ("TRITON_URL", "http://triton:8000"),
        ("TRITON_URL", "triton"),
        ("BRIDGE_PREFETCH", "65536"),
        ("TASKIQ_ML_QUEUE_TYPE", "fast"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(errors.SettingsError, match=variable):
        load_settings()


@pytest.mark.parametrize("field", Settings.model_fields)
def test_an_empty_variable_is_an_unset_one(monkeypatch, field):
    """As `${NAME:-}` in a compose file gives it."""
    default = Settings.model_fields[field].get_default(call_default_factory=True)
    monkeypatch.setenv(field.upper(), "")
    assert getattr(load_settings(), field) == default


SECRETS = [
    name.upper()
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
]
URLS = {"REDIS_URL": "redis://:s3cret@host/0", "BRIDGE_PAYLOAD_URL": "redis://:s3cret@host/1"}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_end_in_a_line_break_but_not_hold_one(monkeypatch, name):
    text = URLS.get(name, "s3cret")
    monkeypatch.setenv(name, f"{text}\r\n")
    assert getattr(load_settings(), name.lower()).get_secret_value() == text
    for wrong in (f"{text}\nmore", f"\n{text}", f"{text}\t", f"{text}\x7f"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(errors.SettingsError, match=f"{name}: .*control character") as caught:
            load_settings()
        assert "s3cret" not in str(caught.value)


def test_there_are_many_secrets():
    assert {"RABBITMQ_PASSWORD", "TASKIQ_DASHBOARD_TOKEN", *URLS} < set(SECRETS)
    assert len(SECRETS) >= 10


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("api-key=abc", True),
        ("authorization=Basic dXNlcjpwYXNz==, x-scope = a/b ,", True),
        ("authorization=Basic%20dXNlcg%3D%3D", True),
        ("", True),
        ("api-key", False),
        ("api-key: abc", False),
        ("a=1;b=2", False),
        ('a="1"', False),
        ("a=1%0Ab", False),
    ],
)
def test_headers_are_right_if_opentelemetry_takes_them(monkeypatch, caplog, text, right):
    for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        monkeypatch.setenv(name, text)
        assert load_settings().wrong_headers == (None if right else name)
        monkeypatch.delenv(name)
    taken = parse_env_headers(text, liberal=True)
    if right:  # else it would show them, or a request would
        assert not caplog.text
    else:
        assert caplog.text or any("\n" in value for value in taken.values())


def test_what_headers_hold_is_covered(monkeypatch):
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20dXNlcjpwYXNz, stage=tests"
    )
    secrets = load_settings().secrets
    assert {"Basic dXNlcjpwYXNz", "authorization=Basic%20dXNlcjpwYXNz", "stage=tests"} <= secrets
    assert "tests" not in secrets  # a word


def test_several_triton_addresses(monkeypatch):
    monkeypatch.setenv("TRITON_URL", "gpu-1:8001, gpu-2:8001")
    assert load_settings().triton_addresses == ["gpu-1:8001", "gpu-2:8001"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("TASKIQ_ML_QUEUE_NAME", "TASKIQ_ML_QUEUE"), ("bridge_prefech", "BRIDGE_PREFETCH")],
)
def test_a_slip_of_the_pen_is_told(monkeypatch, name, meant):
    monkeypatch.setenv(name, "1")
    with pytest.raises(errors.SettingsError, match=f"{name}: did you mean {meant}"):
        load_settings()


@pytest.mark.parametrize("name", ["BRIDGE_QUEUE_PORT", "BRIDGE_QUEUE_SERVICE_HOST", "BRIDGE_MODE"])
def test_what_others_set_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    load_settings()


@pytest.mark.parametrize("value", ["tcp://10.0.0.7:5673", "tcp://[fd00::7]:5673", "5673"])
def test_kubernetes_may_set_the_port_of_a_service_that_is_named_rabbitmq(monkeypatch, value):
    monkeypatch.setenv("RABBITMQ_PORT", value)
    monkeypatch.setenv("RABBITMQ_SERVICE_HOST", "10.0.0.7")
    assert load_settings().rabbitmq_port == 5673


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::1", "amqp://guest:guest@[::1]:5672/%2F"),
        ("[::1]", "amqp://guest:guest@[::1]:5672/%2F"),
        ("rabbit", "amqp://guest:guest@rabbit:5672/%2F"),
    ],
)
def test_a_host_may_be_an_ipv6_address(monkeypatch, host, url):
    monkeypatch.setenv("RABBITMQ_HOST", host)
    settings = load_settings()
    assert settings.rabbitmq_url == url
    assert settings.management_url == url.replace("amqp://guest:guest@", "http://").replace(
        "5672/%2F", "15672"
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("RABBITMQ_HOST", "localhost:5672", "the port goes into RABBITMQ_PORT"),
        ("BRIDGE_BATCH_DELAY_US", "digits:500", "BRIDGE_BATCH_DELAY_US: must be JSON"),
    ],
)
def test_a_slip_of_the_value_is_told(monkeypatch, name, value, text):
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.SettingsError, match=text):
        load_settings()


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")],  # noqa: S104 - only compared
)
def test_a_pool_is_asked_where_it_listens(host, asked):
    settings = Settings(bridge_metrics_host=host, bridge_metrics_port=9464)
    assert settings.worker_urls == [f"http://{asked}:9464"]
    told = Settings(bridge_worker_urls="http://gpu-1:9101", bridge_metrics_port=9464)
    assert told.worker_urls == ["http://gpu-1:9101"]
