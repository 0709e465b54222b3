"""The transformer, for sequences: steps of numbers, or tokens. Runs in the training process only.

Layers are torch's own `nn.TransformerEncoder`, normalised first (Xiong et al. 2020, "On Layer
Normalization in the Transformer Architecture"); positions are learned.
"""

from typing import ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from bridge.errors import DatasetError

_SPREAD = 0.02  # of embeddings and positions when they are drawn
_FEEDFORWARD = 4  # widths
_SERIES, _STEPS = 1, 2  # dimensions of a row: [length], [length, features]


class TransformerOptions(BaseModel):
    """Options of `transformer`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    width: int = Field(default=64, ge=1, le=8192)
    layers: int = Field(default=2, ge=1, le=64)
    heads: int = Field(default=4, ge=1, le=128)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"'width' {self.width} must be a multiple of 'heads' {self.heads}")
        return self


class Transformer:
    """An encoder and the mean over all steps that are not padding."""

    Options: ClassVar[type[BaseModel]] = TransformerOptions
    sequences: ClassVar[bool] = True

    @staticmethod
    def build(
        input_shape: tuple[int, ...],
        outputs: int,
        options: TransformerOptions,
        *,
        vocabulary: int | None,
    ) -> nn.Module:
        """See `Architecture.build`.

        Args:
            input_shape: [length] of tokens or of numbers, or [length, features].
            outputs: number of classes or values.
            options: checked.
            vocabulary: number of tokens, or None: rows are numbers.

        Raises:
            DatasetError: rows of another shape.
        """
        if len(input_shape) not in (_SERIES, _STEPS):
            raise DatasetError(
                f"transformer takes text, tokens [length], or numbers [length] or [length, "
                f"features], got rows of shape {list(input_shape)}; for images use cnn"
            )
        features = input_shape[1] if len(input_shape) == _STEPS else 1
        first = _Steps(features, options) if vocabulary is None else _Words(vocabulary, options)
        return _Encoder(first, input_shape[0], outputs, options)


class _Steps(nn.Module):
    """Steps of numbers [batch, length, features] or [batch, length]; none is padding."""

    def __init__(self, features: int, options: TransformerOptions) -> None:
        super().__init__()
        self.project = nn.Linear(features, options.width)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        steps = rows if rows.ndim == _STEPS + 1 else rows.unsqueeze(2)
        return self.project(steps), None


class _Words(nn.Module):
    """Tokens [batch, length]; 0 is padding, and what is too large is the last, unseen one."""

    def __init__(self, vocabulary: int, options: TransformerOptions) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, options.width, padding_idx=0)
        nn.init.normal_(self.embed.weight, std=_SPREAD)
        self.last = vocabulary - 1

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        known = tokens.clamp(0, self.last)
        return self.embed(known), known == 0


class _Encoder(nn.Module):
    def __init__(
        self, first: nn.Module, length: int, outputs: int, options: TransformerOptions
    ) -> None:
        super().__init__()
        self.first = first
        self.positions = nn.Parameter(torch.randn(length, options.width) * _SPREAD)
        self.dropout = nn.Dropout(options.dropout)
        layer = nn.TransformerEncoderLayer(
            options.width,
            options.heads,
            _FEEDFORWARD * options.width,
            options.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, options.layers, nn.LayerNorm(options.width), enable_nested_tensor=False
        )
        self.head = nn.Linear(options.width, outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        steps, padding = self.first(rows)
        steps = self.dropout(steps + self.positions)
        if padding is None:
            mean = self.layers(steps).mean(dim=1)
        else:
            # The first step is always seen: attention to nothing at all is no number.
            unseen = padding & (torch.arange(padding.shape[1], device=padding.device) > 0)
            steps = self.layers(steps, src_key_padding_mask=unseen)
            kept = (~padding).unsqueeze(2).to(steps.dtype)
            mean = (steps * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        outputs: torch.Tensor = self.head(mean)
        return outputs
