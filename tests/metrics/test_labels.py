"""Label values are bounded, whatever a stranger writes."""

import pytest
from taskiq import TaskiqMessage

from bridge.labels import BATON, DELAY, SENT_AT, waited_of
from bridge.metrics.labels import OTHER, UNKNOWN, Labels

NOW = 1_800_000_000.0


def message(name, *args):
    return TaskiqMessage(task_id="1", task_name=name, labels={}, args=list(args), kwargs={})


@pytest.fixture
def labels():
    def subject(message, value):
        return (value["model"], value["version"]) if value else (message.args[0], None)

    return Labels({"predict"}.__contains__, lambda name: name.startswith("m"), {"predict": subject})


def test_only_known_tasks_and_models_have_names(labels):
    assert labels.task("predict") == "predict"
    assert labels.task("a\nstranger's") == UNKNOWN
    assert labels.model_of(message("predict", "m1")) == "m1"
    for hostile in ("x", "", None, 7, ["m1"], {"m": 1}, "\ud800"):
        assert labels.model_of(message("predict", hostile)) == UNKNOWN
    assert labels.model_of(message("other", "m1")) == UNKNOWN


def test_a_candidate_is_no_model(labels):
    assert labels.model("m.candidate-0123456789ab") == UNKNOWN
    assert labels.add("m.candidate-0123456789ab") == UNKNOWN


def test_the_version_of_a_task_without_an_answer_is_what_others_get(labels):
    asked = message("predict", "m1")
    assert labels.subject(asked, {"model": "m1", "version": "3"}) == ("m1", "3")
    assert labels.subject(asked, None) == ("m1", UNKNOWN)
    labels.serving["m1"] = "4"
    assert labels.subject(asked, None) == ("m1", "4")
    assert labels.subject(message("predict", "x"), None) == (UNKNOWN, UNKNOWN)


def test_there_is_a_most(labels):
    models = {labels.model(f"m{number}") for number in range(1000)}
    assert OTHER in models
    assert len(models) <= 201
    assert labels.model("m0") == "m0"
    versions = {labels.version("m0", str(number)) for number in range(1000)}
    assert OTHER in versions
    assert len(versions) <= 21


def test_how_long_a_task_waited():
    assert waited_of({SENT_AT: NOW - 5}, None, NOW) == 5
    assert waited_of({}, NOW - 5, NOW) == 5
    assert waited_of({SENT_AT: NOW - 5, DELAY: "3"}, None, NOW) == 2
    assert waited_of({SENT_AT: NOW + 5}, None, NOW) == 0  # clocks differ
    assert waited_of({}, None, NOW) is None
    for no_time in ("soon", -1, float("nan"), 1.0, [], None):
        assert waited_of({SENT_AT: no_time}, None, NOW) is None
    assert waited_of({SENT_AT: NOW - 5, BATON: 2}, None, NOW) is None
    assert waited_of({SENT_AT: NOW - 5, DELAY: "soon"}, None, NOW) is None
