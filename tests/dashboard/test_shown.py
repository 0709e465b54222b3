"""What a dashboard may show: small, without tensors and without secrets."""

import json
import math

import numpy as np
import pytest
from taskiq import TaskiqMessage, TaskiqResult

from bridge.dashboard.shown import arguments, cut, labels, outcome, tensors
from bridge.errors import InvalidInputError


def message(name, *args, labels=None, **kwargs):
    return TaskiqMessage(
        task_id="1", task_name=name, labels=labels or {}, args=list(args), kwargs=kwargs
    )


SECRET_ROW = [0.123456, 0.654321]


@pytest.mark.parametrize(
    ("tensor", "shown"),
    [
        ([SECRET_ROW] * 3, "list [3, 2]"),
        ({"datatype": "FP32", "shape": [1, 2], "data": SECRET_ROW}, "FP32 [1, 2]"),
        ({"datatype": "FP32", "shape": [1, 2], "raw": b"\x01" * 8}, "FP32 [1, 2]"),
        (
            {"datatype": "FP32", "shape": [9], "ref": {"key": "key-to-it"}},
            "FP32 [9] in the payload store",
        ),
        (np.zeros((2, 3), np.float32), "ndarray [2, 3]"),
        ("0.123456", "str"),
        (None, "NoneType"),
    ],
)
def test_tensors_are_told_by_kind_and_shape(tensor, shown):
    task = message("ml_inference", "digits", {"image": tensor})
    assert arguments(task) == (["digits", {"image": shown}], {})
    named = message("ml_inference", model_id="digits", input_data={"image": tensor})
    assert arguments(named) == ([], {"model_id": "digits", "input_data": {"image": shown}})
    reply = {"model_name": "digits", "model_version": "1", "outputs": {"y": tensor}}
    result = TaskiqResult.model_construct(return_value=reply, error=None)
    assert outcome(task, result) == ({**reply, "outputs": {"y": shown}}, None)


def test_input_data_of_any_kind_shows_no_content():
    assert arguments(message("ml_inference", "digits", [SECRET_ROW])) == (
        ["digits", "list [1, 2]"],
        {},
    )
    assert tensors("text") == "str"


@pytest.mark.parametrize(
    "large",
    [
        [[[[[["x" * 1000] * 100] * 100] * 100] * 100] * 100] * 100,
        {str(i): {str(j): "x" * 1000 for j in range(1000)} for i in range(100)},
        "x" * 10**7,
        [2**100_000] * 5,
        b"x" * 10**7,
    ],
)
def test_what_is_large_is_cut(large):
    assert len(json.dumps(cut(large))) < 100_000


def test_values_that_json_lacks_are_told_in_words():
    shown = cut({"a": math.inf, "b": b"abc", "c": 2**80, "d": {1}, "e": "\ud800", 5: True})
    assert json.loads(json.dumps(shown)) == {
        "a": "inf",
        "b": "3 bytes",
        "c": hex(2**80),
        "d": "set",
        "e": "?",
        "5": True,
    }


def test_what_is_named_like_a_secret_is_covered():
    config = {"s3_secret": "x", "apiKey": "x", "nested": {"password": "x"}, "keys": 3}
    assert cut(config) == {
        "s3_secret": "***",
        "apiKey": "***",
        "nested": {"password": "***"},
        "keys": 3,
    }
    assert labels(message("t", labels={"reply_to": "abc", "deadline": 5})) == {"deadline": 5}


@pytest.mark.parametrize("value", [5, "text", [1, 2], None])
def test_a_result_is_always_a_dict(value):
    """The dashboard's page of a task, and its list, fail with 500 where one is a number."""
    result = TaskiqResult.model_construct(return_value=value, error=None)
    assert outcome(message("t"), result) == ({"value": value}, None)


def test_an_error_is_told_and_cut():
    result = TaskiqResult.model_construct(return_value=None, error=InvalidInputError("x" * 5000))
    value, error = outcome(message("t"), result)
    assert value is None
    assert error.startswith("InvalidInputError: xxx")
    assert len(error) < 1100
