"""A dataset's way to `Examples`: what the training process does first, and `validate` alone.

Enters: a store, a dataset's id and what was asked for. Leaves: checked rows; or a report of the
data and of every problem found in it. No torch.
"""

from typing import Any

from bridge.errors import DatasetError, InvalidNameError
from bridge.training.datasets import DatasetStore, load_room, naming
from bridge.training.examples import Examples, prepare
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.request import ModelConfig
from bridge.training.survey import survey
from bridge.training.targets import classes_of

_SEQUENCES = {"mlp": False, "cnn": False, "transformer": True}


def takes_sequences(architecture: str) -> bool:
    """Whether it takes tokens and text. Ours are known; for another's its class is loaded.

    Raises:
        InvalidTrainingRequestError: its entry point cannot be used.
        DatasetError: torch is needed for it, and is not installed.
    """
    if architecture in _SEQUENCES:
        return _SEQUENCES[architecture]
    return bool(load_room("architectures").takes_sequences(architecture))


def open_examples(
    store: DatasetStore,
    dataset_id: str,
    model: ModelConfig,
    parameters: Hyperparameters,
    *,
    sequences: bool = False,
) -> Examples:
    """Read, split and check the rows of a dataset; text and tokens only for `sequences`.

    Raises:
        DatasetError: they cannot be trained on; tells the dataset, the column and what to do.
        InvalidNameError: an input column's name cannot be a model input's.
    """
    splits = store.load(
        dataset_id,
        seed=parameters.seed,
        validation_fraction=parameters.validation_fraction,
        classes=lambda rows: classes_of(rows, model),
    )
    with naming(dataset_id):
        return prepare(splits, model, sequences=sequences)


def validate(
    store: DatasetStore, dataset_id: str, model: ModelConfig, parameters: Hyperparameters
) -> dict[str, Any]:
    """Make every check that a training would make of the data.

    No network is built: whether it takes rows of their shape is told by the training.

    Returns:
        `dataset_id`, `usable`, `problems` (sentences); as far as it can be read `layout`,
        `dataset_hash`, `splits`, `size_bytes`, and `columns` as `survey.survey` has them; if it is
        usable `target`, `task`, `labels`, `inputs` (columns), `input_shape` and `rows`; and of
        tokens and text `words`: `vocabulary`, `length`, and whether it is `text`.

    Raises:
        InvalidTrainingRequestError: the architecture cannot be used.
    """
    sequences = takes_sequences(model.architecture)
    report: dict[str, Any] = {"dataset_id": dataset_id, "usable": False, "problems": []}
    try:
        report |= store.describe(dataset_id)
        report["columns"] = survey(store.splits(dataset_id))
        examples = open_examples(store, dataset_id, model, parameters, sequences=sequences)
    except (DatasetError, InvalidNameError) as error:
        report["problems"].append(str(error))
        report["problems"] += _further(report.get("columns", {}), model, str(error))
        return report
    if words := examples.words:
        report["words"] = {
            "vocabulary": words.vocabulary,
            "length": examples.input_shape[0],
            "text": words.tokenizer is not None,
        }
    return report | {
        "usable": True,
        "target": examples.target,
        "task": examples.task,
        "labels": list(examples.labels),
        "inputs": list(examples.columns),
        "input_shape": list(examples.input_shape),
        "rows": {
            "train": len(examples.train.inputs),
            "validation": len(examples.validation.inputs),
        },
    }


def _further(columns: dict[str, Any], model: ModelConfig, told: str) -> list[str]:
    """What is wrong with the columns that the first problem does not name."""
    found = []
    for name in model.columns or columns:
        column = columns.get(name)
        if column is None or "missing" not in column or repr(name) in told:
            continue
        if column["missing"]:
            found.append(f"column {name!r} has {column['missing']} missing values")
        if column["not_finite"]:
            found.append(
                f"column {name!r} has {column['not_finite']} values that are NaN or infinite"
            )
        if column["ragged"]:
            found.append(f"column {name!r} is ragged: its rows differ in shape")
    return found
