"""Log lines carry ids, hide secrets, and stay one line each where they are JSON."""

import io
import json
import logging

import pytest

from bridge import log_lines, tracing
from bridge.log_lines import TASK_ID
from bridge.settings import Settings


class FixedTrace(tracing.Tracer):
    """A tracer with a trace open; the real one is in tests/tasks/test_traces.py."""

    def trace_id(self):
        return "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines(monkeypatch):
    """A root logger with one handler, as taskiq sets it up; gives what it wrote, by kind."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    def use(kind, secrets=()):
        log_lines.write(kind, secrets)
        return output

    return use


@pytest.fixture
def in_task():
    def enter(task_id):
        tracing.use(FixedTrace())
        tokens.append(TASK_ID.set(task_id))

    tokens = []
    yield enter
    tracing.use(tracing.Tracer())
    for token in tokens:
        TASK_ID.reset(token)


def test_text_ends_its_first_line_with_the_ids(lines, in_task):
    output = lines("text")
    logging.getLogger("bridge.test").error("before")
    in_task("abc")
    logging.getLogger("bridge.test").error("first\nsecond")
    assert output.getvalue() == (
        "[ERROR] before\n"
        "[ERROR] first [task_id=abc trace_id=0af7651916cd43dd8448eb211c80319c]\nsecond\n"
    )


def test_json_is_one_object_a_line(lines, in_task):
    output = lines("json")
    in_task("abc")
    error = ValueError("wrong\nnumber")
    logging.getLogger("bridge.test").error(
        "it %s", "failed", exc_info=error, extra={"model": "digits"}
    )
    (line,) = output.getvalue().splitlines()
    told = json.loads(line)
    assert told["ts"].endswith("+00:00")
    assert told["exception"] == "ValueError: wrong\nnumber"
    rest = {name: told[name] for name in ("level", "logger", "message", "model")}
    assert rest == {
        "level": "ERROR",
        "logger": "bridge.test",
        "message": "it failed",
        "model": "digits",
    }
    assert told["task_id"] == "abc"
    assert told["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_strangers_text_breaks_no_line(lines, in_task):
    output = lines("json")
    in_task("id\nwith\ud800" + "x" * 1000)
    logging.getLogger("bridge.test").error("half \ud800 of a character")
    logging.getLogger("bridge.test").error("an object", extra={"thing": object(), "nan": {1: 2}})
    told = [json.loads(line) for line in output.getvalue().splitlines()]
    assert len(told) == 2
    assert len(told[0]["task_id"]) == 128
    lines("text")
    logging.getLogger("bridge.test").error("text")
    assert output.getvalue().count("\n") == 3


@pytest.mark.parametrize("kind", ["text", "json"])
def test_secrets_are_covered_wherever_they_come_from(lines, monkeypatch, kind):
    monkeypatch.setenv("RABBITMQ_PASSWORD", 'hunter/"22')
    monkeypatch.setenv("REDIS_URL", "redis://:redis-secret@host:6379/0")
    monkeypatch.setenv("TRITON_ADMIN_KEY", "admin-key-0")
    output = lines(kind, Settings().secrets)
    logger = logging.getLogger("aio_pika.test")
    logger.warning('amqp://guest:hunter%2F%2222@host, hunter/"22, guest')
    error = OSError("redis://:redis-secret@host:6379/0 and admin-key-0")
    logger.error("failed", exc_info=error)
    written = output.getvalue()
    for secret in ("hunter", "redis-secret", "admin-key-0"):
        assert secret not in written
    assert "guest" in written  # too short to be told from words


def test_writing_twice_changes_the_kind_only(lines):
    lines("json")
    lines("text")
    output = lines("text")
    logging.getLogger("bridge.test").error("once")
    assert output.getvalue() == "[ERROR] once\n"
