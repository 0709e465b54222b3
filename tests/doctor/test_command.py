"""`mlbridge doctor` as a command, and its catalogue against the page that explains it."""

import json
import re
from pathlib import Path

import pytest

from bridge.doctor import CHECKS, KINDS, examination
from bridge.embedded.ports import free_ports

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "operating.md").read_text()
ROW = re.compile(r"^\| `([a-z-]+)` \| (note|warning|error) \| .+? \| (.+?) \|$", re.MULTILINE)


def nowhere():
    amqp, redis, triton, management = free_ports(4)
    return {
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": amqp,
        "RABBITMQ_PASSWORD": "hidden-rabbit",
        "RABBITMQ_MANAGEMENT_URL": f"http://127.0.0.1:{management}",
        "REDIS_URL": f"redis://:hidden-redis@127.0.0.1:{redis}/0",
        "TRITON_URL": f"127.0.0.1:{triton}",
        "TRITON_ADMIN_KEY": "hidden-triton",
    }


def test_where_nothing_runs_each_part_is_an_error(mlbridge, tmp_path):
    result = mlbridge("doctor", "--json", folder=tmp_path, **nowhere())
    assert result.returncode == 2, result.stderr
    assert "hidden-" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    report = json.loads(result.stdout)
    assert report["worst"] == "error"
    errors = {each["code"] for each in report["findings"] if each["severity"] == "error"}
    assert errors >= {"rabbitmq-unreachable", "redis-unreachable", "triton-unavailable"}
    assert {each["check"] for each in report["findings"]} == set(CHECKS)
    assert all(each["remedy"] for each in report["findings"] if each["severity"] != "ok")


async def test_exit_codes_and_a_person_s_page(command, tmp_path):
    result = await command("doctor", "--only", "repository", MODEL_REPOSITORY=tmp_path / "nowhere")
    assert result.exit_code == 1, result.output
    assert "repository-missing" in result.stdout
    assert f"-> {KINDS['repository-missing'].remedy}" in result.stdout
    assert (await command("doctor", "--only", "versions")).exit_code == 0
    result = await command("doctor", "--only", "weather")
    assert result.exit_code == 2
    assert "no check 'weather'" in result.stderr


async def test_a_variable_that_cannot_be_used(command):
    result = await command("doctor", "--json", RABBITMQ_PORT="x")
    assert result.exit_code == 2
    [only] = json.loads(result.stdout)["findings"]
    assert only["code"] == "settings-unusable"
    assert "RABBITMQ_PORT" in only["what"]


async def test_servers_that_say_nothing_hold_nobody_up(found, settings_of, silent, tmp_path):
    settings = settings_of(
        RABBITMQ_HOST="127.0.0.1",
        RABBITMQ_PORT=silent,
        RABBITMQ_MANAGEMENT_URL=f"http://127.0.0.1:{silent}",
        REDIS_URL=f"redis://127.0.0.1:{silent}/0",
        TRITON_URL=f"127.0.0.1:{silent}",
        BRIDGE_WORKER_URLS=f"http://127.0.0.1:{silent}",
        MODEL_REPOSITORY=str(tmp_path),
    )
    codes = await found(settings)
    assert {"rabbitmq-unreachable", "redis-unreachable", "triton-unavailable"} <= set(codes)
    assert {"worker-pool-unreachable", "consumer-timeout-unknown", "not-checked"} <= set(codes)
    assert "check-failed" not in codes


async def test_a_check_that_breaks_hides_no_other(found, settings_of, monkeypatch):
    async def broken(_):
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(examination.CHECKS, "gpu", broken)
    codes = await found(settings_of(), "gpu", "descriptors")
    assert codes["check-failed"][0].what == "ZeroDivisionError: oh"
    assert len(codes) == 2


def test_the_page_holds_the_catalogue():
    told = {code: tuple(rest) for code, *rest in ROW.findall(PAGE)}
    assert told == {code: (kind.severity.label, kind.remedy) for code, kind in KINDS.items()}


@pytest.mark.parametrize("code", KINDS)
def test_each_finding_is_provoked_by_a_test(code):
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    assert f'"{code}"' in text
