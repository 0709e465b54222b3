"""Half of TLS is none: each mistake is one sentence that names the variable."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from bridge.embedded.stack import Stack
from bridge.errors import SettingsError
from bridge.settings import PARTS, TLS_FILES, load_settings

ON = {"RABBITMQ": {"RABBITMQ_TLS": "true"}, "TRITON": {"TRITON_TLS": "true"}} | {
    "REDIS": {"REDIS_URL": "rediss://:hidden-redis@localhost:6379/0"}
}


@pytest.fixture(params=[part.upper() for part in PARTS])
def part(request, monkeypatch):
    for names in TLS_FILES.values():
        for name in names:
            monkeypatch.delenv(name.upper(), raising=False)
    for name, value in ON[request.param].items():
        monkeypatch.setenv(name, value)
    return request.param


@pytest.fixture
def complain(part, certificates, monkeypatch):
    """What is said with some of the part's files otherwise than right."""

    def said(**files):
        for name, value in certificates.variables(part).items():
            monkeypatch.setenv(name, value)
        for kind, path in files.items():
            monkeypatch.setenv(f"{part}_{kind}_FILE", str(path))
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert "hidden" not in str(caught.value)
        return str(caught.value)

    return said


def test_the_right_files_are_taken(part, certificates, monkeypatch):
    for name, value in certificates.variables(part).items():
        monkeypatch.setenv(name, value)
    assert load_settings().tls_files(part.lower()).ca == certificates.ca


def test_a_certificate_without_its_key_or_a_key_alone(part, complain):
    assert f"{part}_KEY_FILE is not set, but {part}_CERT_FILE is" in complain(KEY="")
    assert f"{part}_CERT_FILE is not set, but {part}_KEY_FILE is" in complain(CERT="")


@pytest.mark.parametrize("kind", ["CA", "CERT", "KEY"])
def test_a_file_that_is_not_there_or_cannot_be_read(part, complain, tmp_path, kind):
    missing = tmp_path / "missing.pem"
    assert f"{part}_{kind}_FILE: cannot read {missing} (No such" in complain(**{kind: missing})
    assert f"{part}_{kind}_FILE: cannot read {tmp_path} (" in complain(**{kind: tmp_path})
    locked = tmp_path / "locked.pem"
    locked.touch(mode=0)
    said = complain(**{kind: locked})
    assert f"{part}_{kind}_FILE" in said  # root may read it, and then finds nothing in it


def test_a_file_that_is_something_else(part, complain, certificates, tmp_path):
    text = tmp_path / "text.pem"
    text.write_text("not a certificate")
    assert f"{part}_CA_FILE: {text} holds no certificate" in complain(CA=text)
    assert f"{part}_CERT_FILE, {part}_KEY_FILE: not a cert" in complain(CERT=text)
    assert f"{part}_CERT_FILE, {part}_KEY_FILE: not a cert" in complain(KEY=text)
    strangers = certificates.stranger[1]
    assert "KEY_VALUES_MISMATCH" in complain(KEY=strangers)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(
    part, complain, certificates, tmp_path
):
    key = load_pem_private_key(certificates.client[1].read_bytes(), None)
    secret = BestAvailableEncryption(b"passphrase")
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    assert "the key has a passphrase" in complain(KEY=locked)


def test_files_that_would_not_be_used(part, complain, monkeypatch):
    monkeypatch.setenv("RABBITMQ_TLS", "false")
    monkeypatch.setenv("TRITON_TLS", "false")
    monkeypatch.setenv("REDIS_URL", "redis://localhost:6379/0")
    assert f"{part}_CA_FILE is set, but" in complain()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hid/den@localhost:6379/0",
        "redis://:hid#den@localhost:6379/0",
        "redis://:hid?den@localhost:6379/0",
        "redis://user:12/den@localhost:6379/0",
        "redis://:hidden@localhost:port/0",
        "http://:hidden@localhost:6379/0",
        "redis://",
    ],
)
@pytest.mark.parametrize("variable", ["REDIS_URL", "BRIDGE_PAYLOAD_URL"])
def test_a_url_that_would_be_misread_is_refused_and_not_shown(monkeypatch, variable, url):
    monkeypatch.setenv(variable, url)
    with pytest.raises(SettingsError, match=variable) as caught:
        load_settings()
    assert "hid" not in str(caught.value)
    assert "den" not in str(caught.value).replace("percent-encoded", "")


def test_the_command_line_says_it_in_one_line(part, certificates, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "bridge", "status"],
        env={**ON[part], f"{part}_CERT_FILE": str(certificates.client[0])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert f"{part}_KEY_FILE is not set" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_what_a_stack_starts_itself_gets_no_files(part, certificates, monkeypatch):
    """`mlbridge up` starts servers without TLS: the environment's files must not meet them."""
    for name, value in certificates.variables(part).items():
        monkeypatch.setenv(name, value)
    stack = Stack(load_settings())
    assert stack.environment[f"{part}_CA_FILE"] == str(certificates.ca)
    started = {
        "RABBITMQ": {"rabbitmq_tls": False},
        "REDIS": {"redis_url": SecretStr("redis://127.0.0.1:1/0")},
        "TRITON": {"triton_tls": False},
    }
    stack._point_at(**started[part], **dict.fromkeys(TLS_FILES[part.lower()]))
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == stack.settings.model_copy(update={"triton_admin_key": None})
