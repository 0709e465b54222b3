"""Both formats, both ways, against stock taskiq's own JSON."""

import asyncio
import json
import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskiq import InMemoryBroker, TaskiqMessage, TaskiqResult
from taskiq.formatters.proxy_formatter import ProxyFormatter
from taskiq.labels import prepare_label
from taskiq.serializers import JSONSerializer

from bridge import errors
from bridge.messages import (
    CONTENT_TYPE,
    MSGPACK,
    Formatter,
    decode_result,
    encode_result,
    read_labels,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def message(args, labels) -> TaskiqMessage:
    return TaskiqMessage(
        task_id="0" * 32, task_name="ml_inference", labels=labels, args=args, kwargs={}
    )


@given(st.lists(VALUES, max_size=3))
def test_json_is_read_and_written_as_stock_taskiq_does(args):
    stock = ProxyFormatter(InMemoryBroker())
    made = message(args, {"a": "1"})
    assert Formatter().loads(stock.dumps(made).message) == made
    assert stock.loads(Formatter().dumps(made).message) == made


@pytest.mark.parametrize("content_type", [{}, {CONTENT_TYPE: MSGPACK}], ids=["JSON", "msgpack"])
@pytest.mark.parametrize("value", [3, 0.1, math.inf, True, "3", b"[1, 2]"])
def test_labels_that_were_read_are_written_as_they_came(value, content_type):
    """As those of a training are, with each slice of it."""
    label, kind = prepare_label(value)
    sent = message([], {"n": label, **content_type})
    sent.labels_types = {"n": kind}
    for _ in range(3):
        sent = Formatter().loads(Formatter().dumps(sent).message)
        read_labels(sent)
        assert sent.labels["n"] == value
        assert type(sent.labels["n"]) is type(value)


@given(st.lists(VALUES | st.binary(max_size=16), max_size=3))
def test_msgpack_carries_bytes_and_names_itself(args):
    made = message(args, {CONTENT_TYPE: MSGPACK})
    body = Formatter().dumps(made).message
    assert Formatter().loads(body) == made
    del made.labels[CONTENT_TYPE]
    fields = msgpack.packb(made.model_dump())
    assert Formatter().loads(fields).labels == {CONTENT_TYPE: MSGPACK}


def test_a_json_message_that_says_it_is_msgpack_is_answered_in_json():
    stock = ProxyFormatter(InMemoryBroker())
    read = Formatter().loads(stock.dumps(message([1], {CONTENT_TYPE: MSGPACK, "a": "1"})).message)
    assert read.labels == {"a": "1"}


def test_nan_in_json_is_read_as_python_writes_it():
    body = json.dumps(message([float("nan")], {}).model_dump(), allow_nan=True).encode()
    assert b"NaN" in body
    assert str(Formatter().loads(body).args[0]) == "nan"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1, 2]",
        b'{"task_id": 5}',
        b"\x80",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        b"[" * 100_000,
        b"{" + b'"a":{' * 100_000,
        b"\x91" * 100_000,
        b"\xff\xfe\x00",
        '{"task_id": "\ud800"}'.encode("utf-8", "surrogatepass"),
    ],
)
def test_nonsense_is_one_clear_error(body):
    with pytest.raises(errors.MalformedMessageError):
        Formatter().loads(body)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_clear_error(body):
    try:
        Formatter().loads(body)
    except errors.MalformedMessageError as error:
        assert len(str(error)) < 400


def test_what_cannot_be_written_is_refused_before_it_is_sent():
    with pytest.raises(errors.MalformedMessageError, match="cannot be sent"):
        Formatter().dumps(message([object()], {}))


def result(error=None, value=None, labels=None) -> TaskiqResult:
    return TaskiqResult(
        is_err=error is not None,
        return_value=value,
        execution_time=0.1,
        labels=labels or {},
        error=error,
    )


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_what_no_worker_would_read_is_refused_before_it_is_sent(labels):
    with pytest.raises(errors.MalformedMessageError, match="more than 2,097,152 lists"):
        Formatter().dumps(message([[[]] * 2**21], labels))


def test_an_input_whose_name_is_no_text_is_refused_before_it_is_sent():
    with pytest.raises(errors.MalformedMessageError, match="for map key"):
        Formatter().dumps(message(["double", {1: b"raw"}], {CONTENT_TYPE: MSGPACK}))


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_results_come_back_with_their_value(labels):
    decoded = decode_result(encode_result(result(value={"a": [1, 2.5]}, labels=labels)))
    assert decoded.return_value == {"a": [1, 2.5]}
    assert decoded.error is None
    assert not decoded.is_err


def test_a_stock_reader_reads_a_json_result():
    data = encode_result(result(errors.ShapeError("input 'x': wrong"), labels={"a": 1}))
    stock = TaskiqResult.model_validate(JSONSerializer().loadb(data))
    assert isinstance(stock.error, errors.ShapeError)
    assert str(stock.error) == "input 'x': wrong"
    fine = TaskiqResult.model_validate(JSONSerializer().loadb(encode_result(result(value=[1.5]))))
    assert fine.return_value == [1.5]


def test_nan_in_a_json_result_is_null_for_strict_readers():
    assert json.loads(encode_result(result(value=[float("nan"), 1.0])))["return_value"] == [None, 1]


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_errors_of_our_tree_come_back_as_they_are(labels):
    decoded = decode_result(encode_result(result(errors.TooManyRowsError("9 rows"), labels=labels)))
    assert type(decoded.error) is errors.TooManyRowsError
    assert str(decoded.error) == "9 rows"


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), asyncio.CancelledError("x"), errors.BridgeError("x")]
)
def test_other_errors_are_named_in_the_text(error):
    decoded = decode_result(encode_result(result(error)))
    assert isinstance(decoded.error, errors.BridgeError)
    assert "x" in str(decoded.error)


def test_a_result_never_chooses_a_class_or_calls_anything():
    fields = json.loads(encode_result(result(errors.BridgeError("x"))))
    for module, name in [("os", "system"), ("builtins", "eval"), ("bridge.errors", "error_class")]:
        fields["error"] |= {"exc_module": module, "exc_type": name, "exc_message": ["touch /x"]}
        error = decode_result(json.dumps(fields).encode()).error
        assert type(error) is errors.TaskFailedError


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_numpy_in_a_users_own_result_is_written_plainly(labels):
    value = {"a": np.float32(1.5), "b": np.arange(2), "c": np.float16(2)}
    data = encode_result(result(value=value, labels=labels))
    assert decode_result(data).return_value == {"a": 1.5, "b": [0, 1], "c": 2.0}


@pytest.mark.parametrize("labels", [{}, {CONTENT_TYPE: MSGPACK}])
def test_a_return_value_that_cannot_be_written_is_the_results_error(labels):
    decoded = decode_result(encode_result(result(value=object(), labels=labels)))
    assert decoded.is_err
    assert "cannot be written" in str(decoded.error)


def test_keys_that_are_no_text_and_wide_integers_are_written_as_stock_taskiq_writes_them():
    value = {1: 0.5, "wide": [2**70, -(2**63) - 1, 2**64 - 1], "nan": float("nan")}
    data = encode_result(result(value=value))
    expected = {"1": 0.5, "wide": value["wide"], "nan": None}
    assert decode_result(data).return_value == expected
    assert str(decode_result(data).return_value["wide"][0]) == str(2**70)  # no float
    assert JSONSerializer().loadb(data)["return_value"] == expected
    assert Formatter().loads(Formatter().dumps(message([{1: 0.5}], {})).message).args == [
        {"1": 0.5}
    ]


def test_a_wide_integer_which_a_worker_would_round_is_refused_before_it_is_sent():
    with pytest.raises(errors.MalformedMessageError, match="64-bit"):
        Formatter().dumps(message([2**70], {}))


def test_keys_that_are_no_text_come_back_from_msgpack_as_they_are():
    data = encode_result(result(value={1: 0.5, None: 2}, labels={CONTENT_TYPE: MSGPACK}))
    assert decode_result(data).return_value == {1: 0.5, None: 2}
    with pytest.raises(errors.MalformedMessageError):
        decode_result(b"\x81\x90\x01")  # a list as a key
