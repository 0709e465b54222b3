"""What a message may hold, and what it may claim: for the property tests."""

from hypothesis import strategies as st

from bridge.tensors import DTYPES

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | st.sampled_from(["\ud800", "\0", "x" * 300, "AAAA", "AAAAAA=="])
    | st.binary(max_size=6)
)
FIELDS = ["datatype", "shape", "data", "raw", "ref", "key", "size", "sha256", "x"]
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=16,
)
SIZES = st.integers(-1, 5) | st.sampled_from([2**31, 2**62, 2**63, True, 1.0, "1", None])
SHAPES = st.lists(SIZES, max_size=5) | VALUES
ENTRIES = VALUES | st.fixed_dictionaries(
    {"datatype": st.sampled_from([*DTYPES, "os", None]), "shape": SHAPES},
    optional={"data": VALUES, "raw": VALUES},
)
SPEC_SHAPES = st.lists(st.integers(-1, 3).filter(bool), max_size=3).map(tuple)
