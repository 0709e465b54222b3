"""What a caller may ask of `train_model`, checked before any work. No torch.

Enters: the task's three arguments, as JSON brought them. Leaves: a `TrainingRequest`, or one
error that lists every problem. What an architecture's own `options` may hold is known to the
architecture, and is checked by the training process before it reads data.
"""

import reprlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from bridge.errors import InvalidNameError, InvalidTrainingRequestError
from bridge.names import check_name
from bridge.repository import check_model_id
from bridge.settings import Settings
from bridge.training.datasets import DatasetStore
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.pretrained import weights_file
from bridge.training.published import FIELD

ARCHITECTURES = "bridge.architectures"
"""Entry-point group; a name in it is what `model_config["architecture"]` may say."""

TARGETS = ("target", "label", "class", "y")
"""Columns that are taken for the target where the caller names none."""

SMALLEST_SIDE, MOST_CHANNELS = 4, 16
"""Of images that `cnn` takes."""

Task = Literal["classification", "multi-label", "regression"]
Variant = Literal["fp32", "fp16", "int8"]
Metric = Literal["accuracy", "f1", "exact_match", "r2", "loss", "rmse", "mae"]
METRICS: dict[Task, tuple[Metric, ...]] = {
    "classification": ("accuracy", "loss"),
    "multi-label": ("f1", "exact_match", "accuracy", "loss"),
    "regression": ("rmse", "mae", "r2", "loss"),
}
"""What a network is judged by, for each task."""
Parsed = TypeVar("Parsed", bound=BaseModel)
# A name that is a number may come as one: `-c target=0` on the command line is JSON.
_ALSO_NUMBERS = BeforeValidator(lambda value: str(value) if type(value) is int else value)
VersionNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$"), _ALSO_NUMBERS]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256), _ALSO_NUMBERS]
ModelName = Annotated[str, _ALSO_NUMBERS]

# Of what is told: a stranger's fields may be many, and their names long.
_MOST_PROBLEMS, _MOST_NAME = 20, 64
_MAX_LOSS = 0.01

_CONFIG = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class TextConfig(BaseModel):
    """How a column of text becomes tokens."""

    model_config = _CONFIG

    vocabulary: int = Field(default=20_000, ge=1, le=1_000_000)
    """So many of the commonest words are known; the others are one and the same."""
    length: int | None = Field(default=None, ge=1, le=8192)
    """Words of a text that count; by default as many as the longest has, 256 at most."""


class ModelConfig(BaseModel):
    """`model_config`: what is trained, from which columns, under which name."""

    model_config = _CONFIG

    architecture: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """Name of an entry point in `bridge.architectures`: "mlp", "cnn", "transformer", or another."""
    model_id: ModelName | None = None
    """Name of the model in Triton; by default the dataset's id."""
    input: Column | None = None
    """The one column that the model takes."""
    inputs: list[Column] | None = Field(default=None, min_length=1)
    """Or several, laid side by side in this order; by default all but the target."""
    target: Column | None = None
    """Column to predict; by default the one called "target", "label", "class" or "y"."""
    targets: list[Column] | None = Field(default=None, min_length=1)
    """Or several columns, side by side: labels of 0 and 1, or values."""
    task: Task | None = None
    """By default regression of fractions, multi-label of lists of 0 and 1, else classification."""
    text: TextConfig = Field(default_factory=TextConfig)
    """Where the input is text."""
    weights: str | None = None
    """A file under DATASET_ROOT whose weights the network begins with."""
    from_model: ModelName | None = None
    """Or a model in the repository that it goes on from."""
    from_version: VersionNumber | None = None
    """Which version of it; by default the newest, when the training begins."""
    freeze: bool = False
    """Train the last layer only."""
    max_batch_size: int = Field(default=64, ge=1, le=65_536)
    """Rows that Triton puts into one batch at most."""
    variant: Variant = "fp32"
    """The numbers that the served model computes with; callers send and get float32 always."""
    max_accuracy_loss: float | None = Field(default=None, ge=0, le=1)
    """What a variant may lose, as `bridge.training.judging.lost` counts; 0.01 by default."""
    require: dict[Metric, float] = Field(default_factory=dict)
    """What the network must come to on the validation rows to go live: see `METRICS`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The architecture's own options."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.input is not None and self.inputs is not None:
            raise ValueError("'input' and 'inputs' say the same: give one of them")
        if self.target is not None and self.targets is not None:
            raise ValueError("'target' and 'targets' say the same: give one of them")
        self._check_beginning()
        if self.max_accuracy_loss is not None and self.variant == "fp32":
            raise ValueError("'max_accuracy_loss' is of variants 'fp16' and 'int8', not of 'fp32'")
        for name in ("inputs", "targets"):
            columns = getattr(self, name) or []
            if len(set(columns)) < len(columns):
                raise ValueError(f"{name!r} names a column twice")
        for target in self.targets or ([] if self.target is None else [self.target]):
            if target in (self.columns or ()):
                raise ValueError(f"the target {target!r} is also an input")
        return self

    def _check_beginning(self) -> None:
        if self.weights is not None and self.from_model is not None:
            raise ValueError("'weights' and 'from_model' say the same: give one of them")
        if self.from_version is not None and self.from_model is None:
            raise ValueError("'from_version' needs 'from_model', whose version it is")
        if self.freeze and self.weights is None and self.from_model is None:
            raise ValueError(
                "'freeze' needs 'weights' or 'from_model': nothing learns where nothing was learned"
            )

    @property
    def columns(self) -> list[str] | None:
        """Input columns that the caller named, or None for all but the target."""
        return self.inputs if self.input is None else [self.input]

    @property
    def accuracy_loss_limit(self) -> float:
        """`max_accuracy_loss`, or the default."""
        return _MAX_LOSS if self.max_accuracy_loss is None else self.max_accuracy_loss


class TrainingRequest(BaseModel):
    """One checked request; travels to the training process as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset_id: str
    model_id: str
    model: ModelConfig
    hyperparameters: Hyperparameters


def architectures() -> dict[str, EntryPoint]:
    """The installed architectures by name; looking loads none of them."""
    return {point.name: point for point in entry_points(group=ARCHITECTURES)}


def parse_request(
    dataset_id: Any, model_config: Any, hyperparameters: Any, settings: Settings
) -> TrainingRequest:
    """Check the arguments of `train_model`.

    Args:
        dataset_id: name of a dataset under `settings.dataset_root`.
        model_config: see `ModelConfig`.
        hyperparameters: see `Hyperparameters`; all optional.
        settings: tells where the datasets lie.

    Raises:
        InvalidTrainingRequestError: lists each problem: the field, what was expected, what came.
        DatasetError: there is no such dataset.
    """
    problems: list[str] = []
    model = _read(ModelConfig, "model_config", model_config, problems)
    parameters = _read(Hyperparameters, "hyperparameters", hyperparameters, problems)
    if model is not None and model.architecture not in architectures():
        problems.append(
            f"model_config.architecture: none is called {reprlib.repr(model.architecture)}; "
            f"installed are {', '.join(sorted(architectures()))}"
        )
    model_id = dataset_id if model is None or model.model_id is None else model.model_id
    try:
        check_name("dataset_id", dataset_id)
        check_model_id(model_id)
        if model is not None and model.from_model is not None:
            check_name(FIELD, model.from_model)
    except InvalidNameError as error:
        problems.append(str(error))
    if problems or model is None or parameters is None:
        raise InvalidTrainingRequestError("; ".join(problems))
    DatasetStore(settings.dataset_root).path(dataset_id)
    if model.weights is not None:
        weights_file(settings.dataset_root, model.weights)
    return TrainingRequest(
        dataset_id=dataset_id, model_id=model_id, model=model, hyperparameters=parameters
    )


def parse_options(model: type[Parsed], options: Any) -> Parsed:
    """Check an architecture's own options.

    Raises:
        InvalidTrainingRequestError: as `parse_request` does.
    """
    problems: list[str] = []
    parsed = _read(model, "model_config.options", options, problems)
    if parsed is None:
        raise InvalidTrainingRequestError("; ".join(problems))
    return parsed


def _read(model: type[Parsed], name: str, value: Any, problems: list[str]) -> Parsed | None:
    if not isinstance(value, Mapping):
        problems.append(f"{name}: must be an object, got {reprlib.repr(value)}")
        return None
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems += [_sentence(name, item) for item in found[:_MOST_PROBLEMS]]
        strange = [item["loc"] for item in found if item["type"] == "extra_forbidden"]
        if any(len(place) == 1 for place in strange):  # told once, not for each of them
            problems.append(f"{name}: known fields are {', '.join(sorted(model.model_fields))}")
        if len(found) > _MOST_PROBLEMS:
            problems.append(f"{name}: and {len(found) - _MOST_PROBLEMS} problems more")
        return None


def _sentence(name: str, item: ErrorDetails) -> str:
    field = ".".join([name, *(str(part)[:_MOST_NAME] for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if item["type"] == "missing":
        return f"{field}: is missing"
    text = item["msg"].removeprefix("Value error, ")
    text = text.replace("Input should be", "must be", 1)
    return f"{field}: {text}, got {reprlib.repr(item['input'])}"
