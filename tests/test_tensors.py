"""Every datatype survives every form, and what does not fit is named."""

import base64
import json
import math

import ml_dtypes
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bridge import errors
from bridge.forms import Form, parse_tensor, read_entry, render_tensor, wire_form
from bridge.tensors import DTYPES, Tensor, TensorSpec, datatype_of

NUMERIC = sorted(DTYPES.keys() - {"BYTES", "BF16"})
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)


def spec(datatype: str, rank: int = 1) -> TensorSpec:
    return TensorSpec("x", datatype, (-1,) * rank)


@st.composite
def arrays(draw):
    datatype = draw(st.sampled_from(NUMERIC))
    elements = {"allow_nan": False, "allow_infinity": False} if "FP" in datatype else None
    return datatype, draw(hnp.arrays(DTYPES[datatype], SHAPES, elements=elements))


@given(arrays())
def test_every_numeric_tensor_survives_every_form_in_json(made):
    datatype, array = made
    tensor = Tensor.from_array(array)
    assert tensor.datatype == datatype
    for form in Form:
        written = render_tensor(tensor, form, binary=False)
        read, read_form = parse_tensor(json.loads(orjson.dumps(written)), spec(datatype))
        assert read == tensor
        assert read_form is form
    np.testing.assert_array_equal(tensor.to_array(), array)


@given(arrays())
def test_raw_bytes_survive_without_base64(made):
    datatype, array = made
    value = wire_form(array)
    read, form = parse_tensor(value, spec(datatype))
    assert form is Form.RAW
    np.testing.assert_array_equal(read.to_array(), array)
    np.testing.assert_array_equal(read_entry(value), array)


@given(st.lists(st.lists(st.text(max_size=8), min_size=3, max_size=3), min_size=1, max_size=4))
def test_text_survives_every_form(rows):
    tensor, _ = parse_tensor(rows, spec("BYTES", 2))
    for form in Form:
        written = render_tensor(tensor, form, binary=False)
        assert parse_tensor(json.loads(json.dumps(written)), spec("BYTES"))[0] == tensor
    assert render_tensor(tensor, Form.LISTS, binary=False) == rows


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=6))
def test_any_bytes_survive_raw(elements):
    array = np.array([*elements, None], dtype=object)[:-1]
    tensor = Tensor.from_array(array)
    assert Tensor("BYTES", tensor.shape, tensor.data).to_array().tolist() == elements


@given(hnp.arrays(np.float32, SHAPES, elements={"allow_nan": False, "allow_infinity": False}))
def test_bf16_survives_every_form(array):
    array = array.astype(ml_dtypes.bfloat16)
    tensor = Tensor.from_array(array)
    assert tensor.datatype == "BF16"
    for form in Form:
        written = render_tensor(tensor, form, binary=False)
        text = json.dumps(written, allow_nan=True)
        assert parse_tensor(json.loads(text), spec("BF16"))[0] == tensor


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["datatype", "shape", "data", "raw", "x"]), inner)
        ),
        max_leaves=12,
    ),
    st.sampled_from(sorted(DTYPES)),
)
def test_whatever_comes_is_a_tensor_or_an_error_of_ours(value, datatype):
    try:
        tensor, _ = parse_tensor(value, spec(datatype))
    except errors.InvalidInputError as error:
        assert "'x'" in str(error) or "BYTES" in str(error)
    else:
        assert tensor.datatype == datatype
        if datatype != "BYTES":
            wanted = math.prod(tensor.shape) * DTYPES[datatype].itemsize
            assert len(tensor.data) == wanted


@pytest.mark.parametrize(
    ("value", "datatype", "error", "text"),
    [
        ([[1.0, 2.0], [3.0]], "FP32", errors.RaggedInputError, "differ in length"),
        ([["a"], ["b", "c"]], "BYTES", errors.RaggedInputError, "differ in length"),
        ([["a", "b"]], "FP32", errors.DatatypeError, "takes FP32, got text"),
        ([[1, None]], "FP32", errors.DatatypeError, "takes FP32, got NoneType"),
        ([[1, 2**70]], "FP32", errors.DatatypeError, "got numbers beyond 64 bits"),
        ([[1, "a"]], "FP32", errors.DatatypeError, "got text"),
        ([[[1]], [2]], "FP32", errors.RaggedInputError, "differ in length or depth"),
        ([[1], [[2]]], "FP32", errors.RaggedInputError, "differ in length or depth"),
        ([["\ud800"]], "BYTES", errors.DatatypeError, "lone surrogate"),
        ([[1.5, 2.0]], "INT32", errors.DatatypeError, "takes INT32, got fractions"),
        ([[math.nan]], "INT32", errors.NotANumberError, "NaN"),
        ([[math.inf]], "BOOL", errors.NotANumberError, "infinity"),
        ([[True]], "INT8", errors.DatatypeError, "got booleans"),
        ([[1]], "BOOL", errors.DatatypeError, "takes BOOL, got integers"),
        ([[300]], "UINT8", errors.DatatypeError, "holds 0 to 255, got 300"),
        ([[-1]], "UINT64", errors.DatatypeError, "got -1"),
        ([[2**80]], "INT64", errors.DatatypeError, "INT64"),
        ([[0, 2**64]], "UINT64", errors.DatatypeError, "UINT64"),
        ([[-1, 2**63]], "UINT64", errors.DatatypeError, "UINT64"),
        ([[0.5, 2**63]], "UINT64", errors.DatatypeError, "got fractions"),
        ([[5]], "BYTES", errors.DatatypeError, "strings"),
        (7, "FP32", errors.MalformedTensorError, "nested list"),
        (None, "FP32", errors.MalformedTensorError, "NoneType"),
        ({"shape": [1], "data": [1]}, "FP32", errors.DatatypeError, "takes FP32, got None"),
        (
            {"datatype": "FP64", "shape": [1], "data": [1.0]},
            "FP32",
            errors.DatatypeError,
            "takes FP32, got 'FP64'",
        ),
        ({"datatype": "FP32", "shape": [2], "data": [1.0]}, "FP32", errors.ShapeError, "needs 2"),
        ({"datatype": "FP32", "shape": [-1], "data": []}, "FP32", errors.ShapeError, "sizes"),
        ({"datatype": "FP32", "shape": "x", "data": []}, "FP32", errors.ShapeError, "sizes"),
        ({"datatype": "FP32", "shape": [1] * 40, "data": []}, "FP32", errors.ShapeError, "16"),
        ({"datatype": "FP32", "shape": [True], "data": [1]}, "FP32", errors.ShapeError, "sizes"),
        (
            {"datatype": "FP32", "shape": [2**62, 4], "raw": "AAAAAA=="},
            "FP32",
            errors.ShapeError,
            "'raw' has 4",
        ),
        (
            {"datatype": "FP32", "shape": [1], "raw": "no base64!"},
            "FP32",
            errors.MalformedTensorError,
            "base64",
        ),
        (
            {"datatype": "FP32", "shape": [1], "data": [1.0], "raw": ""},
            "FP32",
            errors.MalformedTensorError,
            "either",
        ),
        (
            {"datatype": "BYTES", "shape": [1], "raw": base64.b64encode(b"\xff\0\0\0a").decode()},
            "BYTES",
            errors.MalformedTensorError,
            "4-byte lengths",
        ),
    ],
)
def test_what_does_not_fit_is_named(value, datatype, error, text):
    with pytest.raises(error) as caught:
        parse_tensor(value, spec(datatype, 2))
    assert type(caught.value) is error
    assert text in str(caught.value)


def test_bytes_that_are_no_text_are_refused_as_text_and_given_raw():
    tensor = Tensor.from_array(np.array([b"\xff\xfe"], dtype=object))
    with pytest.raises(errors.DatatypeError, match="raw"):
        render_tensor(tensor, Form.LISTS, binary=False)
    assert render_tensor(tensor, Form.RAW, binary=True)["raw"] == b"\x02\0\0\0\xff\xfe"


def test_a_dtype_that_kserve_has_not_is_refused():
    with pytest.raises(errors.DatatypeError, match="complex64"):
        datatype_of(np.zeros(1, np.complex64))


def test_unsigned_integers_on_both_sides_of_2_to_the_63_are_exact():
    tensor, _ = parse_tensor([0, 2**63, 2**64 - 1], spec("UINT64"))
    assert tensor.to_array().tolist() == [0, 2**63, 2**64 - 1]


def test_big_endian_and_non_contiguous_arrays_are_laid_out_as_the_protocol_wants():
    array = np.arange(12, dtype=">i4").reshape(3, 4)[:, ::2]
    tensor = Tensor.from_array(array)
    assert tensor.datatype == "INT32"
    np.testing.assert_array_equal(tensor.to_array(), array)


def test_an_answer_in_the_form_of_kserves_json_is_read_too():
    value = {"datatype": "INT64", "shape": [2, 1], "data": [3, 4]}
    found = read_entry(value)
    assert found.dtype == np.int64
    assert found.tolist() == [[3], [4]]
