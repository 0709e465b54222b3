"""bfloat16 between Triton and onnxruntime, of which numpy knows nothing: as uint16 bits.

Triton hands its tensors over as DLPack capsules, which neither numpy (no bfloat16) nor every
version of onnxruntime can read: hence the few lines of ctypes.
"""

import ctypes
import math
from typing import Any

import numpy as np
import onnxruntime as ort

_IN_ONNX = 16  # onnx.TensorProto.BFLOAT16


class _DLTensor(ctypes.Structure):
    """The head of DLPack's `DLManagedTensor` (dmlc/dlpack, `dlpack.h`)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def read_capsule(capsule: Any) -> np.ndarray:
    """A copy of one of Triton's tensors of 2-byte elements, as uint16 of the same shape.

    They are contiguous and, unless a model asks otherwise, in host memory.
    """
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    address = (tensor.data or 0) + tensor.byte_offset
    return _copied(address, tuple(tensor.shape[: tensor.ndim]))


def make_value(bits: np.ndarray) -> Any:
    """An onnxruntime value that owns its memory: Triton reads an output after `execute` ends."""
    value = ort.OrtValue.ortvalue_from_shape_and_type(bits.shape, _IN_ONNX)
    if bits.size:
        ctypes.memmove(value.data_ptr(), np.ascontiguousarray(bits).ctypes.data, bits.nbytes)
    return value


def read_value(value: Any) -> np.ndarray:
    """A copy of an onnxruntime value of 2-byte elements, as uint16 of the same shape."""
    return _copied(value.data_ptr(), tuple(value.shape()))


def _copied(address: int, shape: tuple[int, ...]) -> np.ndarray:
    size = 2 * math.prod(shape)
    raw = ctypes.string_at(address, size) if size else b""
    return np.frombuffer(raw, np.uint16).reshape(shape)
