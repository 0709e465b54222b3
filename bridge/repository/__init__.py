"""Triton's model repository on disk: the one room that writes model folders.

No torch, no ONNX, no network: whether a candidate is any good is found out by whoever asks
Triton between `lay_candidate` and `publish`.
"""

from bridge.repository.readable import render_card
from bridge.repository.signature import Signature, render_config
from bridge.repository.store import Candidate, ModelRepository, check_model_id
from bridge.repository.withdrawn import restorable, restore, taken_out, withdraw

__all__ = [
    "Candidate",
    "ModelRepository",
    "Signature",
    "check_model_id",
    "render_card",
    "render_config",
    "restorable",
    "restore",
    "taken_out",
    "withdraw",
]
