"""What a message may say about a payload: only what a store could have given out."""

import hashlib
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import errors
from bridge.references import (
    Reference,
    StoredTensor,
    new_key,
    own_keys,
    parse_reference,
    parse_stored,
    read_stored,
)
from bridge.tensors import DTYPES, TensorSpec

SHA = hashlib.sha256(b"").hexdigest()
KEY = "1800000000-t-" + "0" * 32
GOOD = {"key": KEY, "size": 16, "sha256": SHA}
SPEC = TensorSpec("x", "FP32", (-1, 4))


def entry(**changed):
    return {"datatype": "FP32", "shape": [1, 4], "ref": GOOD} | changed


@given(st.integers(0, 10**10 - 1), st.booleans(), st.integers(1, 2**63 - 1), st.binary(max_size=9))
def test_what_a_store_gives_out_is_read_back(expires_at, shared, size, data):
    key = new_key(expires_at, shared=shared)
    reference = Reference(key, size, hashlib.sha256(data).hexdigest())
    assert parse_reference("x", reference.written()) == reference
    assert reference.expires_at == expires_at
    assert own_keys({"x": {"ref": reference.written()}}) == ([] if shared else [key])


HOSTILE_KEYS = [
    "../" + KEY,
    KEY + "/..",
    "/etc/passwd",
    "s3://other/bucket",
    "redis://evil:6379/0",
    KEY.replace("-t-", "/t/"),
    KEY.upper().replace("T", "t").replace("0" * 32, "A" * 32),
    KEY + "\n",
    KEY + "\0",
    "\u0661800000000-t-" + "0" * 32,
    "1800000000-x-" + "0" * 32,
    "180000000-t-" + "0" * 32,
    "",
    None,
    5,
    ["a"],
    {"key": KEY},
    KEY.encode(),
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_a_key_that_no_store_gave_out_goes_nowhere(key):
    with pytest.raises(errors.MalformedReferenceError, match=r"^input 'x': 'key' must be"):
        parse_stored(entry(ref=GOOD | {"key": key}), SPEC)
    assert own_keys({"x": {"ref": {"key": key}}}) == []


@given(st.text(st.characters() | st.sampled_from(string.digits + "abcdef-ts./"), max_size=60))
def test_no_text_but_a_key_is_a_key(text):
    try:
        key = parse_reference("x", GOOD | {"key": text}).key
    except errors.MalformedReferenceError:
        return
    assert set(key) <= set("0123456789abcdef-ts")
    assert len(key) == 45


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["datatype", "shape", "ref", "key", "size", "sha256", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(anything)
def test_nonsense_is_an_input_error_and_nothing_else(value):
    own_keys(value)
    own_keys({"x": value})
    for kept in ({"ref": value}, {"datatype": "FP32", "shape": [1, 4], "ref": value}):
        with pytest.raises(errors.InvalidInputError):
            parse_stored(kept, SPEC)
        with pytest.raises(errors.InvalidInputError):
            read_stored("y", kept)
    if isinstance(value, dict) and "ref" in value:
        with pytest.raises(errors.InvalidInputError):
            parse_stored(value, SPEC)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "16", None, 2**63, float("nan")])
def test_a_size_that_is_none(size):
    with pytest.raises(errors.MalformedReferenceError, match="'size' must be"):
        parse_stored(entry(ref=GOOD | {"size": size}), SPEC)


@pytest.mark.parametrize("sha256", ["", SHA[:-1], SHA.upper(), SHA + "0", None, 5, SHA.encode()])
def test_a_checksum_that_is_none(sha256):
    with pytest.raises(errors.MalformedReferenceError, match="'sha256' must be"):
        parse_stored(entry(ref=GOOD | {"sha256": sha256}), SPEC)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"ref": GOOD | {"size": 15}}, errors.ShapeError, "needs 16 bytes, 'size' says 15"),
        ({"ref": GOOD | {"size": 17}}, errors.ShapeError, "needs 16 bytes, 'size' says 17"),
        ({"shape": [2**40, 2**40]}, errors.ShapeError, "needs 4835703278458516698824704 bytes"),
        ({"shape": [-1, 4]}, errors.ShapeError, "'shape' must be a list"),
        ({"shape": None}, errors.ShapeError, "'shape' must be a list"),
        ({"datatype": "FP64"}, errors.DatatypeError, "takes FP32, got 'FP64'"),
        ({"datatype": None}, errors.DatatypeError, "takes FP32, got None"),
        ({"raw": b""}, errors.MalformedReferenceError, "must have 'datatype', 'shape' and 'ref'"),
        ({"url": "http://x"}, errors.MalformedReferenceError, "must have"),
        ({"ref": GOOD | {"host": "x"}}, errors.MalformedReferenceError, "'ref' must be"),
        ({"ref": "abc"}, errors.MalformedReferenceError, "'ref' must be"),
    ],
)
def test_an_entry_that_does_not_fit(changed, error, text):
    with pytest.raises(error) as caught:
        parse_stored(entry(**changed), SPEC)
    assert type(caught.value) is error
    assert text in str(caught.value)
    assert "'x'" in str(caught.value)


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BYTES"])
def test_every_datatype_knows_its_size(datatype):
    size = 6 * DTYPES[datatype].itemsize
    value = entry(datatype=datatype, shape=[2, 3], ref=GOOD | {"size": size})
    stored = parse_stored(value, TensorSpec("x", datatype, (-1, 3)))
    assert read_stored("x", value) == stored
    tensor = stored.filled("x", bytes(size))
    assert tensor.to_array().shape == (2, 3)


def test_text_has_at_least_its_lengths():
    spec = TensorSpec("x", "BYTES", (-1,))
    value = entry(datatype="BYTES", shape=[3], ref=GOOD | {"size": 11})
    with pytest.raises(errors.ShapeError, match="at least 12 bytes"):
        parse_stored(value, spec)
    stored = parse_stored(value | {"ref": GOOD | {"size": 12}}, spec)
    assert stored.filled("x", bytes(12)).to_array().tolist() == [b""] * 3
    with pytest.raises(errors.ShapeError, match="needs 3 elements, 'raw' has 1"):
        stored.filled("x", b"\x08\0\0\0" + bytes(8))


def test_a_stored_tensor_is_written_as_it_is_read():
    stored = StoredTensor("FP32", (1, 4), Reference(**GOOD))
    assert parse_stored(stored.written(), SPEC) == stored
    assert np.array_equal(stored.filled("x", bytes(16)).to_array(), np.zeros((1, 4), np.float32))
