"""What a user's own package would hold: architectures that work, and some that do not."""

import os
import sys
import tempfile
import time
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


class _Squeezed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        return self.inner(rows)[:, 0]


class Squeezing(Linear):
    @staticmethod
    def build(input_shape, outputs, options):
        return _Squeezed(Linear.build(input_shape, outputs, options))


class OneMore(Linear):
    @staticmethod
    def build(input_shape, outputs, options):
        return Linear.build(input_shape, outputs + 1, options)


class FailingOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    how: str


class _Mistaken(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        raise ZeroDivisionError("a mistake of the user's")


class Failing:
    """Ends as a GPU would end it, on a machine that has none; or as memory or a mistake does."""

    Options: ClassVar = FailingOptions

    @staticmethod
    def build(input_shape, outputs, options):
        match options.how:
            case "memory":
                bytearray(1 << 60)
            case "gpu":
                raise torch.AcceleratorError("CUDA error: an illegal memory access")
            case "words":
                sys.stdout.write(f"temporary files go into {tempfile.gettempdir()}\n")
                sys.stdout.write(
                    f"compiled code goes into {os.environ['TORCHINDUCTOR_CACHE_DIR']}\n"
                )
        return _Mistaken(Linear.build(input_shape, outputs, LinearOptions()))


class Nothing:
    """Has neither `Options` nor `build`."""


class _Slow(nn.Module):
    """Takes a while for each step, on fast machines too; not when it answers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        if self.training:
            time.sleep(0.03)
        return self.inner(rows)


class Slow(Linear):
    @staticmethod
    def build(input_shape, outputs, options):
        return _Slow(Linear.build(input_shape, outputs, options))
