""".env.example has every variable, with the defaults that hold; scripts/make-env fills it in."""

import re
import shutil
import stat
import subprocess

import pytest
from pydantic import SecretStr

from bridge.settings import Settings, load_settings

OF_COMPOSE = {"COMPOSE_PROFILES", "BIND_ADDRESS", "TORCH_INDEX_URL"}
OF_THE_SDK = {
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
}
"""What OpenTelemetry reads by itself."""
SECRETS = {
    "RABBITMQ_PASSWORD",
    "REDIS_PASSWORD",
    "TRITON_ADMIN_KEY",
    "TASKIQ_DASHBOARD_TOKEN",
    "GRAFANA_PASSWORD",
}
OF_THE_STACK = {
    "REDIS_PASSWORD": "part of REDIS_URL",
    "GRAFANA_PASSWORD": "of Grafana's admin",
}


def shown(default):
    """A default as an environment variable would say it."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float) and default.is_integer():
        return str(int(default))
    return str(default)


def test_every_variable_is_there_and_no_other(example):
    settings = {name.upper() for name in Settings.model_fields}
    wanted = settings | OF_COMPOSE | OF_THE_SDK | set(OF_THE_STACK)
    assert wanted - set(example) == set(), "add them to .env.example"
    assert set(example) - wanted == set(), "they mean nothing any more"


@pytest.mark.parametrize("field", Settings.model_fields)
def test_the_default_that_is_shown_holds(example, field):
    value, counts = example[field.upper()]
    if counts:
        assert field.upper() in SECRETS | {"RABBITMQ_USERNAME"}
    else:
        default = Settings.model_fields[field].get_default(call_default_factory=True)
        assert value == shown(default)


def test_every_line_may_count(example, monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    default = Settings()
    for name, (value, _) in example.items():
        monkeypatch.setenv(name, value)
    user = example["RABBITMQ_USERNAME"][0]
    assert load_settings() == default.model_copy(update={"rabbitmq_username": user})


def test_each_variable_of_the_compose_file_is_in_the_example(uses, example):
    assert set(uses) - set(example) == set()


def test_secrets_are_asked_for(uses, example):
    for name in SECRETS:
        assert uses[name] == {"?"}, f"{name} must not have a default"
        assert example[name] == ("", True)


def test_make_env_writes_passwords_of_its_own(root, tmp_path, example):
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts" / "make-env", tmp_path / "scripts")
    shutil.copy(root / ".env.example", tmp_path)
    for _ in range(2):  # the second time it leaves what is there
        subprocess.run([tmp_path / "scripts" / "make-env"], check=True, capture_output=True)
        written = (tmp_path / ".env").read_text()
    values = dict(re.findall(r"^([A-Z_]+)=(.*)$", written, re.MULTILINE))
    assert set(values) == {name for name, (_, counts) in example.items() if counts}
    for name in SECRETS:
        assert re.fullmatch(r"[0-9a-f]{32}", values[name])
    assert len({values[name] for name in SECRETS}) == len(SECRETS)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert written == (tmp_path / ".env").read_text()
