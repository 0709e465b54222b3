"""Whatever comes in is what it says, or an error of ours that anybody can carry on."""

import json
import math
import tracemalloc

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import ENTRIES, SPEC_SHAPES, VALUES
from taskiq import TaskiqMessage, TaskiqResult

from bridge import errors
from bridge.errors import error_text
from bridge.forms import lists, parse_tensor
from bridge.forms.lists import from_lists
from bridge.inference.inputs import read_inputs
from bridge.messages import (
    CONTENT_TYPE,
    MSGPACK,
    Formatter,
    decode_result,
    encode_result,
    read_labels,
    wire,
)
from bridge.references import StoredTensor
from bridge.results import decode_push
from bridge.settings import Settings
from bridge.specs import ModelSpec
from bridge.tensors import DTYPES, Tensor, TensorSpec, unpack_bytes
from bridge.training.request import parse_request

TEXTS = st.text(st.characters(), max_size=6)
LABELS = st.dictionaries(st.sampled_from(["a", "timeout", "ack_type", CONTENT_TYPE]), VALUES)
TASKS = st.fixed_dictionaries(
    {
        "task_id": TEXTS | VALUES,
        "task_name": TEXTS | VALUES,
        "labels": LABELS | VALUES,
        "args": st.lists(VALUES, max_size=3) | VALUES,
        "kwargs": st.dictionaries(TEXTS, VALUES, max_size=2) | VALUES,
    },
    optional={"labels_types": st.dictionaries(st.sampled_from(["a", "timeout"]), VALUES) | VALUES},
)


def written(fields, *, binary):
    """As a stranger's library may write it."""
    if binary:
        return msgpack.packb(fields, default=str, unicode_errors="surrogatepass")
    return json.dumps(fields, default=str).encode()


def checked(body):
    """A message as the intake reads it, or None where it is refused."""
    try:
        message = Formatter(2000).loads(body)
        read_labels(message)
    except (errors.MalformedMessageError, errors.MessageTooLargeError) as error:
        assert len(error_text(error, 1000)) < 400
        return None
    return message


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda it: b"{" + it))
def test_any_bytes_are_a_message_or_refused(body):
    checked(body)


@given(TASKS, st.booleans())
def test_whoever_is_let_in_gets_a_result(fields, binary):
    message = checked(written(fields, binary=binary))
    if message is None:
        return
    for error in (None, errors.ShapeError("\ud800" * 20_000), ValueError(message.task_name)):
        result = TaskiqResult.model_construct(
            is_err=error is not None,
            return_value=message.args,
            execution_time=0.1,
            labels=message.labels,
            error=error,
        )
        read = decode_result(encode_result(result))
        assert read.is_err or error is None
        assert len(str(read.error)) < 11_000


NUMBERS = st.one_of(
    st.floats(),
    st.floats(allow_nan=False),
    st.integers(-9, 9),
    st.booleans(),
    st.sampled_from(["x", None]),
)
ROWS = st.lists(
    st.lists(st.floats(), min_size=2, max_size=2) | st.lists(NUMBERS, max_size=3), max_size=4
)


@given(
    st.lists(st.floats(), max_size=3) | ROWS | st.lists(ROWS, max_size=3),
    st.sampled_from(["FP32", "FP64", "INT32"]),
)
@example([[1e39, 0.1], [-0.0, 1.0]], "FP32")  # beyond it is infinity
@example([[[1.0, 2.0], [3.0]], [[4.0], [5.0, 6.0]]], "FP32")  # as many as if it were none
@example([[1.0, 2.0], {3.0: 1, 4.0: 1}], "FP32")
def test_the_short_way_of_fractions_is_that_of_all(value, datatype):
    spec = TensorSpec("x", datatype, (-1,))

    def read():
        try:
            return from_lists(value, spec)
        except errors.InvalidInputError as error:
            return type(error), str(error)

    short = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_packed", lambda *_: None)
        assert read() == short


@given(st.binary(max_size=40) | VALUES.map(lambda it: written(it, binary=True)))
def test_what_redis_gives_is_a_result_or_refused(data):
    for read in (decode_result, decode_push):
        try:
            read(data)
        except errors.MalformedMessageError:
            continue


@given(
    st.fixed_dictionaries(
        {"is_err": st.booleans()},
        optional={"error": VALUES, "labels": VALUES, "execution_time": VALUES},
    ),
    st.fixed_dictionaries({"exc_type": VALUES, "exc_module": VALUES, "exc_message": VALUES}),
    st.booleans(),
)
def test_a_hostile_result_is_an_error_of_ours_at_most(fields, error, binary):
    for made in (fields, fields | {"error": error}):
        try:
            read = decode_result(written(made, binary=binary))
        except errors.MalformedMessageError:
            continue
        assert read.error is None or isinstance(read.error, errors.BridgeError)


def test_a_result_full_of_nesting_or_pickles_is_read_without_harm():
    deep = json.loads("[" * 900 + "]" * 900)
    for hostile in (deep, {"exc_type": deep}, "cos\nsystem\n(S'true'\ntR.", 7):
        error = {"exc_type": hostile, "exc_message": hostile, "exc_module": "os"}
        read = decode_result(written({"is_err": True, "error": error}, binary=False))
        assert type(read.error) is errors.TaskFailedError


@settings(max_examples=400)
@given(ENTRIES, st.sampled_from(sorted(DTYPES)), SPEC_SHAPES)
@example({"datatype": "INT8", "shape": [2**62, 0], "raw": b""}, "INT8", (-1, 0))
@example([[1.0] * 3 + ["x" * 300]], "FP32", (-1, 4))
@example([[[1.0]], [2.0]], "FP32", (-1, 1, 1))
def test_an_entry_is_a_tensor_of_its_bytes_or_refused(value, datatype, shape):
    spec = TensorSpec("x", datatype, shape)
    try:
        tensor, _ = parse_tensor(value, spec)
    except errors.InvalidInputError as error:
        assert len(str(error)) < 600
        return
    assert tensor.datatype == datatype
    if datatype == "BYTES":
        assert len(unpack_bytes("x", tensor.data)) == math.prod(tensor.shape)
    else:
        assert len(tensor.data) == math.prod(tensor.shape) * DTYPES[datatype].itemsize


@given(st.dictionaries(st.sampled_from("xyz"), ENTRIES, max_size=2) | VALUES, SPEC_SHAPES)
def test_inputs_fit_the_model_or_are_refused(data, shape):
    spec = ModelSpec("m", 3, {"x": TensorSpec("x", "FP32", (-1, *shape))}, {})
    try:
        tensors, _ = read_inputs(spec, data)
    except errors.InvalidInputError as error:
        assert len(str(error)) < 600
        return
    assert isinstance(tensors["x"], (Tensor, StoredTensor))
    assert 1 <= tensors["x"].shape[0] <= 3


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return Settings(dataset_root=tmp_path_factory.mktemp("datasets"))


@given(VALUES, VALUES | st.fixed_dictionaries({"architecture": TEXTS | VALUES}), VALUES)
@example("digits", {"architecture": "mlp", "options": {"hidden": [10**9]}}, {"epochs": 10**12})
@example("x" * 10_000, {"y" * 10_000: 1, "architecture": "\ud800"}, {str(i): 1 for i in range(999)})
def test_a_training_is_refused_in_few_words(here, dataset_id, model, hyperparameters):
    with pytest.raises(errors.TrainingError) as caught:
        parse_request(dataset_id, model, hyperparameters, here)
    assert len(str(caught.value)) < 5000


# ---- what a message may cost --------------------------------------------------------------


def body_of(argument):
    head = b'{"task_id":"a","task_name":"t","labels":{},"labels_types":null,"kwargs":{},"args":'
    return head + argument + b"}"


def packed(unit, count):
    fields = {"task_id": "a", "task_name": "t", "labels": {}, "kwargs": {}}
    array = b"\xdd" + count.to_bytes(4, "big") + unit * count
    return b"\x85" + msgpack.packb(fields)[1:] + b"\xa4args" + array


@pytest.mark.parametrize(
    "body",
    [
        body_of(b"[" + b"[]," * 300_000 + b"0]"),
        body_of(b"[" + b"{}," * 300_000 + b"0]"),
        packed(b"\x90", 900_000),
        packed(b"\x80", 900_000),
        packed(b"\xd4\x05x", 300_000),
    ],
)
def test_small_containers_are_bounded(body, monkeypatch):
    monkeypatch.setattr(wire, "_MOST_CONTAINERS", 50_000)
    tracemalloc.start()
    try:
        with pytest.raises(errors.MalformedMessageError, match=r"lists and objects|extension"):
            Formatter().loads(body)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(body)
    finally:
        tracemalloc.stop()


def test_brackets_in_texts_are_no_containers(monkeypatch):
    monkeypatch.setattr(wire, "_MOST_CONTAINERS", 10)
    texts = ["[" * 20, '"[{' * 20, "\\", 'a\\"[']
    assert Formatter().loads(body_of(json.dumps(texts).encode())).args == texts


def test_a_text_beside_numbers_does_not_make_each_as_wide():
    value = [[1.0] * 20_000 + ["x" * 20_000]]
    tracemalloc.start()
    try:
        with pytest.raises(errors.DatatypeError, match="got text"):
            parse_tensor(value, TensorSpec("x", "FP32", (-1, 20_001)))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("binary", [False, True])
def test_a_message_above_the_limit_is_not_looked_at(binary):
    body = written({"task_id": "x" * 2000}, binary=binary)
    with pytest.raises(errors.MessageTooLargeError, match="BRIDGE_MAX_READ_BYTES"):
        Formatter(most_read=2000).loads(body)


@pytest.mark.parametrize(
    ("labels", "types", "text"),
    [
        ({"a": "\ud800"}, None, "UTF-8"),
        ({"a": math.inf}, {"a": 2}, "infinity"),
        ({"a": "x" * 70_000}, None, "at most 65,536"),
        ({"a": json.loads("[" * 400 + "]" * 400)}, None, "cannot be read"),
        ({"ack_type": "never"}, None, "acknowledge"),
        ({"a": "/w=="}, {"a": 6}, "cannot be read"),
        ({"a": 2**70}, None, "64-bit"),
    ],
)
def test_labels_that_no_result_could_carry_are_refused(labels, types, text):
    message = TaskiqMessage.model_construct(
        task_id="a", task_name="t", labels=labels, labels_types=types, args=[], kwargs={}
    )
    with pytest.raises(errors.MalformedMessageError, match=text):
        read_labels(message)
    assert MSGPACK not in labels.values()
