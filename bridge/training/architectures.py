"""Networks by name: the MLP for tables, the CNN for images, and the door for others.

An architecture is a class registered as an entry point in the group `bridge.architectures`:

    [project.entry-points."bridge.architectures"]
    wide = "my_package:Wide"

It has a pydantic model `Options` (what `model_config["options"]` may hold) and a static `build`,
as in `Architecture`. `build` returns a module that takes float32 [batch, *input_shape],
normalised, and gives float32 [batch, outputs]: logits of classes, or normalised values.
Normalisation, and softmax or sigmoid, are added around it (`Network`), and travel with the exported
model.

An architecture with `sequences = True` takes rows [length, features], of which each feature is
normalised by itself, and also tokens: int64 [batch, length]. Its `build` gets their number as the
keyword `vocabulary`, or None for numbers.

Images are [height, width] (one grey channel) or [channels, height, width].
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import psutil
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from bridge.errors import BridgeError, DatasetError, InvalidTrainingRequestError
from bridge.tensors import Array
from bridge.training.moments import mean_and_scale
from bridge.training.request import (
    MOST_CHANNELS,
    SMALLEST_SIDE,
    Task,
    architectures,
    parse_options,
)
from bridge.training.streams import Inputs

Width = Annotated[int, Field(ge=1, le=65_536)]

_OPTIONS = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
_CONSTANT = 1e-30  # a float32 can divide by what is above; of equal numbers it is 0 exactly
_COPIES = 4  # weights, gradients, and the two moments of AdamW


class Architecture(Protocol):
    """What an entry point in `bridge.architectures` must name: a class with these two."""

    Options: ClassVar[type[BaseModel]]

    @staticmethod
    def build(input_shape: tuple[int, ...], outputs: int, options: Any, **more: Any) -> nn.Module:
        """Make an untrained network.

        Args:
            input_shape: shape of one row.
            outputs: number of classes or values.
            options: an instance of `Options`.
            more: `vocabulary`, if the class has `sequences = True`.

        Raises:
            DatasetError: rows of this shape are not for this architecture.
        """


class MLPOptions(BaseModel):
    """Options of `mlp`."""

    model_config = _OPTIONS

    hidden: list[Width] = Field(default=[128, 64], max_length=16)
    """Width of each hidden layer."""
    dropout: float = Field(default=0.1, ge=0, lt=1)


class MLP:
    """Fully connected layers, for rows of numbers; rows of other shapes are flattened."""

    Options: ClassVar[type[BaseModel]] = MLPOptions

    @staticmethod
    def build(input_shape: tuple[int, ...], outputs: int, options: MLPOptions) -> nn.Module:
        """See `Architecture.build`."""
        width = torch.Size(input_shape).numel()
        layers: list[nn.Module] = [nn.Flatten()]
        for size in options.hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(options.dropout)]
            width = size
        return nn.Sequential(*layers, nn.Linear(width, outputs))


class CNNOptions(BaseModel):
    """Options of `cnn`."""

    model_config = _OPTIONS

    channels: list[Width] = Field(default=[16, 32, 64], min_length=1, max_length=8)
    """Channels of each convolution; between them the image is halved while it is large enough."""
    dropout: float = Field(default=0.2, ge=0, lt=1)


class CNN:
    """3x3 convolutions with batch normalisation, then the mean over the image."""

    Options: ClassVar[type[BaseModel]] = CNNOptions

    @staticmethod
    def build(input_shape: tuple[int, ...], outputs: int, options: CNNOptions) -> nn.Module:
        """See `Architecture.build`."""
        shape = (1, *input_shape) if len(input_shape) == 2 else input_shape  # noqa: PLR2004
        if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE or shape[0] > MOST_CHANNELS:  # noqa: PLR2004
            raise DatasetError(
                f"cnn takes images [height, width] or [channels, height, width] with sides of at "
                f"least {SMALLEST_SIDE} and at most {MOST_CHANNELS} channels, got rows of shape "
                f"{list(input_shape)}; for rows of numbers use mlp, and move the channels of "
                f"[height, width, channels] to the front"
            )
        channels, side = shape[0], min(shape[1:])
        layers: list[nn.Module] = [] if len(input_shape) == len(shape) else [_Grey()]
        for index, size in enumerate(options.channels):
            if index and side >= 2 * SMALLEST_SIDE:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            convolution = nn.Conv2d(channels, size, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(size), nn.ReLU()]
            channels = size
        return nn.Sequential(
            *layers, _Mean(), nn.Dropout(options.dropout), nn.Linear(size, outputs)
        )


class _Grey(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.unsqueeze(1)


class _Mean(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean(dim=(2, 3))


def takes_sequences(name: str) -> bool:
    """Whether an architecture takes tokens and text.

    Raises:
        InvalidTrainingRequestError: its entry point cannot be used.
    """
    return bool(getattr(_load(name), "sequences", False))


def build(
    name: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    outputs: int,
    vocabulary: int | None = None,
) -> nn.Module:
    """Make the network that a request names.

    Args:
        name: of the architecture.
        options: its own.
        input_shape: shape of one row.
        outputs: number of classes or values.
        vocabulary: number of tokens; None: rows are numbers.

    Raises:
        InvalidTrainingRequestError: its options are wrong, or its entry point cannot be used.
        DatasetError: the rows are not for it.
    """
    architecture = _load(name)
    parsed = parse_options(architecture.Options, options)
    more = {"vocabulary": vocabulary} if takes_sequences(name) else {}

    def make() -> nn.Module:
        return architecture.build(input_shape, outputs, parsed, **more)

    _check_memory(make)
    return make()


def _load(name: str) -> Architecture:
    try:
        architecture: Architecture = architectures()[name].load()
        _ = architecture.Options, architecture.build
    except Exception as error:
        raise InvalidTrainingRequestError(
            f"architecture {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return architecture


def _check_memory(make: Callable[[], nn.Module]) -> None:
    """Refuse a network that cannot fit, before it takes the memory of everybody on the machine."""
    try:
        with torch.device("meta"):  # shapes without numbers
            weights = sum(weight.nbytes for weight in make().parameters())
    except BridgeError:
        raise
    except Exception:  # noqa: BLE001  (what it computes while it is built needs numbers)
        return
    needed, free = weights * _COPIES, psutil.virtual_memory().available
    if needed > free:
        raise InvalidTrainingRequestError(
            f"this network takes {needed / 1e9:,.1f} GB to train, and {free / 1e9:,.1f} GB are "
            f"free; make it smaller by model_config.options"
        )


class Network(nn.Module):
    """An architecture's network between learned normalisation of raw rows and of raw answers.

    Calling it gives what the loss wants: logits of classes, or normalised values. `answer` gives
    what callers want, and is what is exported.
    """

    input_mean: torch.Tensor
    input_scale: torch.Tensor
    value_mean: torch.Tensor
    value_scale: torch.Tensor

    def __init__(
        self,
        inner: nn.Module,
        inputs: Inputs,
        values: Array | None,
        *,
        multi_label: bool = False,
        sequences: bool = False,
    ) -> None:
        """Learn the normalisation.

        Args:
            inner: takes and gives normalised rows.
            inputs: raw training rows [rows, *input_shape], read once. Numbers of a table are
                normalised each by itself, images by channel, tokens (whole numbers) not at all.
            values: raw training targets [rows, outputs] of a regression; None: classes.
            multi_label: any number of the classes may be right at once.
            sequences: rows are [length, features], normalised by feature.
        """
        super().__init__()
        self.inner = inner
        self.task: Task = "multi-label" if multi_label else "classification"
        if values is not None:
            self.task = "regression"
        dimensions = len(inputs.shape)
        kept = 1 if dimensions in (2, 4) else None  # a number's or a channel's own axis
        if sequences:
            kept = 2 if dimensions == 3 else None  # noqa: PLR2004  (rows, steps, features)
        if not (isinstance(inputs, np.ndarray) and inputs.dtype.kind in "iu"):
            self._learn("input", inputs, [axis for axis in range(dimensions) if axis != kept])
        if values is not None:
            self._learn("value", values, [0])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits or normalised values [batch, outputs] of raw rows."""
        if rows.is_floating_point():
            rows = (rows - self.input_mean) / self.input_scale
        outputs: torch.Tensor = self.inner(rows)
        return outputs

    def wanted(self, targets: torch.Tensor) -> torch.Tensor:
        """What `forward` should give for raw targets: the same, or normalised values."""
        if self.task != "regression":
            return targets
        return (targets - self.value_mean) / self.value_scale

    def answer(self, rows: torch.Tensor) -> torch.Tensor:
        """Probabilities of classes, or values in the target's own unit; [batch, outputs]."""
        outputs = self(rows)
        if self.task == "classification":
            return torch.softmax(outputs, dim=1)
        if self.task == "multi-label":
            return torch.sigmoid(outputs)
        result: torch.Tensor = outputs * self.value_scale + self.value_mean
        return result

    def _learn(self, name: str, rows: Inputs, axes: list[int]) -> None:
        mean, scale = mean_and_scale(rows, axes)
        scale[scale < _CONSTANT] = 1.0  # constant in training: leave it as it is
        self.register_buffer(f"{name}_mean", torch.from_numpy(mean).float())
        self.register_buffer(f"{name}_scale", torch.from_numpy(scale).float())
