"""What is told of a Triton that is away."""

import pytest

from bridge.errors import TritonUnavailableError
from bridge.triton_errors import triton_error


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("failed to connect to all addresses", "; check TRITON_URL"),
        ("Socket closed", "; if it speaks TLS there, set TRITON_TLS"),
    ],
)
def test_a_triton_that_is_away_names_what_to_look_at(text, advice):
    told = {"model": "digits", "address": "gpu-1:8001", "encrypted": False}
    error = triton_error("UNAVAILABLE", text, **told)
    assert type(error) is TritonUnavailableError
    assert str(error) == f"Triton at gpu-1:8001 is not available: {text}{advice}"
