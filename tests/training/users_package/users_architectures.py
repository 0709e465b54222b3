"""What a user's own package would hold: one architecture that works, and two that do not."""

from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn


class LinearOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    bias: bool = True


class Linear:
    Options: ClassVar = LinearOptions

    @staticmethod
    def build(input_shape, outputs, options):
        size = torch.Size(input_shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(size, outputs, bias=options.bias))


class _NotANumber(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        return self.inner(rows) * float("nan")


class Diverging(Linear):
    @staticmethod
    def build(input_shape, outputs, options):
        return _NotANumber(Linear.build(input_shape, outputs, options))


class Nothing:
    """Has neither `Options` nor `build`."""
