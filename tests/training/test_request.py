"""Every wrong request is told in words, all problems at once."""

import json

import pytest

from bridge.errors import DatasetError, InvalidTrainingRequestError
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.request import TrainingRequest, architectures, parse_request

CNN = {"architecture": "cnn"}


def test_the_shortest_request_has_sensible_defaults(settings):
    request = parse_request("digits", CNN, {}, settings)
    assert (request.dataset_id, request.model_id) == ("digits", "digits")
    assert request.model.max_batch_size == 64
    assert request.model.columns is None
    assert request.hyperparameters.epochs == 15
    assert request.hyperparameters.patience is None


@pytest.mark.parametrize(
    ("rows", "given", "used"),
    [
        (12, None, 8),
        (120, None, 8),
        (240, None, 12),
        (1437, None, 64),
        (10**6, None, 64),
        (9, 5, 5),
    ],
)
def test_the_batch_size_suits_the_number_of_rows(rows, given, used):
    assert Hyperparameters(batch_size=given).batch_size_for(rows) == used


def test_everything_can_be_said(settings):
    model = {
        "architecture": "mlp",
        "model_id": "mine",
        "inputs": ["a", "b"],
        "target": "c",
        "task": "regression",
        "max_batch_size": 1,
        "options": {"hidden": [4]},
    }
    hyperparameters = {
        "epochs": 1,
        "batch_size": 2,
        "learning_rate": 1,
        "weight_decay": 0,
        "seed": 2**32 - 1,
        "validation_fraction": 0.5,
        "patience": 3,
        "accumulate": 2,
        "optimizer": "sgd",
        "momentum": 0,
        "schedule": "cosine",
        "warmup_fraction": 0.1,
        "clip": 1,
        "precision": "bf16-mixed",
        "class_weights": {"a": 2, "b": 0.5},
        "label_smoothing": 0.1,
    }
    request = parse_request("digits", model, hyperparameters, settings)
    assert request.model_id == "mine"
    assert request.model.columns == ["a", "b"]
    assert request.hyperparameters.learning_rate == 1.0
    # It travels to the training process as JSON.
    assert TrainingRequest.model_validate(json.loads(request.model_dump_json())) == request


def test_names_that_are_numbers_may_come_as_numbers(settings):
    model = {**CNN, "model_id": 2024, "target": 0, "inputs": [1, "2"], "from_model": 7}
    request = parse_request("digits", model, {"precision": 32}, settings)
    assert (request.model_id, request.model.target) == ("2024", "0")
    assert (request.model.columns, request.model.from_model) == (["1", "2"], "7")
    assert request.hyperparameters.precision == "32"
    with pytest.raises(InvalidTrainingRequestError, match="target: must be a valid string, got Tr"):
        parse_request("digits", {**CNN, "target": True}, {}, settings)


@pytest.mark.parametrize(
    ("model", "hyperparameters", "shown"),
    [
        ({}, {}, "model_config.architecture: is missing"),
        (None, {}, "model_config: must be an object, got None"),
        ([1], {}, r"model_config: must be an object, got \[1\]"),
        ({"architecture": 3}, {}, "model_config.architecture: must be a valid string, got 3"),
        ({"architecture": "vgg"}, {}, "none is called 'vgg'; installed are cnn, mlp"),
        ({"architecture": "os:system"}, {}, "none is called 'os:system'"),
        (
            {**CNN, "layers": 3},
            {},
            "model_config.layers: there is no such field; .* known fields are arch",
        ),
        ({**CNN, "model_id": "../x"}, {}, "model_id must be 1 to 128 characters"),
        ({**CNN, "model_id": "x" * 120}, {}, "model_id must be at most 100"),
        ({**CNN, "input": "a", "inputs": ["a"]}, {}, "'input' and 'inputs' say the same"),
        ({**CNN, "inputs": []}, {}, "model_config.inputs: List should have at least 1 item"),
        ({**CNN, "inputs": "a"}, {}, "model_config.inputs: must be a valid list, got 'a'"),
        ({**CNN, "inputs": ["a", "a"]}, {}, "names a column twice"),
        ({**CNN, "input": "a", "target": "a"}, {}, "the target 'a' is also an input"),
        ({**CNN, "text": {"length": 0}}, {}, "model_config.text.length: must be greater than or"),
        ({**CNN, "text": {"words": 9}}, {}, "model_config.text.words: there is no such field"),
        ({**CNN, "weights": "a/b.pt"}, {}, "model_config.weights must be 1 to 128 characters"),
        ({**CNN, "freeze": True}, {}, "'freeze' needs 'weights'"),
        ({**CNN, "task": "clustering"}, {}, "must be 'classification', 'multi-label' or 'reg"),
        ({**CNN, "max_batch_size": 0}, {}, "must be greater than or equal to 1, got 0"),
        ({**CNN, "max_batch_size": "8"}, {}, "must be a valid integer, got '8'"),
        (
            {**CNN, "require": {"auc": 0.9}},
            {},
            "require.auc.*must be .accuracy., .f1.,",
        ),
        ({**CNN, "require": {"accuracy": "0.9"}}, {}, "require.accuracy: must be a valid number"),
        ({**CNN, "require": 0.9}, {}, "model_config.require: must be a valid dictionary"),
        ({**CNN, "options": [1]}, {}, "model_config.options: must be a valid dictionary"),
        (CNN, None, "hyperparameters: must be an object, got None"),
        (CNN, {"epochs": 0}, "hyperparameters.epochs: must be greater than or equal to 1, got 0"),
        (CNN, {"epochs": 1.5}, "hyperparameters.epochs: must be a valid integer, got 1.5"),
        (CNN, {"epochs": True}, "hyperparameters.epochs: must be a valid integer, got True"),
        (
            CNN,
            {"epoch": 3},
            "hyperparameters.epoch: there is no such field; .*: known fields are acc",
        ),
        (CNN, {"learning_rate": 0}, "must be greater than 0, got 0"),
        (CNN, {"learning_rate": float("nan")}, "must be a finite number, got nan"),
        (CNN, {"learning_rate": float("inf")}, "must be a finite number, got inf"),
        (CNN, {"learning_rate": "fast"}, "must be a valid number, got 'fast'"),
        (CNN, {"validation_fraction": 0.6}, "must be less than or equal to 0.5, got 0.6"),
        (CNN, {"seed": -1}, "must be greater than or equal to 0, got -1"),
        (CNN, {"seed": 2**32}, "must be less than or equal to 4294967295"),
        ({**CNN, "target": "a", "targets": ["b"]}, {}, "'target' and 'targets' say the same"),
        ({**CNN, "targets": ["b", "b"]}, {}, "'targets' names a column twice"),
        ({**CNN, "targets": []}, {}, "model_config.targets: List should have at least 1 item"),
        ({**CNN, "inputs": ["b"], "targets": ["a", "b"]}, {}, "the target 'b' is also an input"),
        (CNN, {"patience": 0}, "must be greater than or equal to 1, got 0"),
        (CNN, {"accumulate": 0}, "hyperparameters.accumulate: must be greater than or equal to 1"),
        (CNN, {"devices": 0}, "hyperparameters.devices: must be greater than or equal to 1"),
        (CNN, {"batch_size": 1}, "batch_size: must be greater than or equal to 2, got 1"),
        (CNN, {"devices": 4, "batch_size": 7}, "'batch_size' 7 is too small to be shared by 4"),
        (CNN, {"optimizer": "lion"}, "hyperparameters.optimizer: must be 'adamw' or 'sgd', got 'l"),
        (CNN, {"momentum": 0.5}, "'momentum' is of optimizer 'sgd', not of 'adamw'"),
        (CNN, {"optimizer": "sgd", "momentum": 1}, "momentum: must be less than 1, got 1"),
        (CNN, {"schedule": "step"}, "schedule: must be 'one_cycle', 'cosine' or 'constant', got"),
        (CNN, {"warmup_fraction": 1}, "warmup_fraction: must be less than 1, got 1"),
        (CNN, {"clip": 0}, "hyperparameters.clip: must be greater than 0, got 0"),
        (CNN, {"precision": 16}, "precision: must be '32', 'bf16-mixed' or '16-mixed', got 16"),
        (CNN, {"class_weights": "even"}, "class_weights.word: must be 'balanced', got 'even'"),
        (CNN, {"class_weights": 3}, "class_weights.word: must be 'balanced', got 3"),
        (CNN, {"class_weights": {"a": 0}}, "class_weights.by_label.a: must be greater than 0"),
        (CNN, {"label_smoothing": 1}, "label_smoothing: must be less than 1, got 1"),
    ],
)
def test_a_bad_request_is_told_in_words(settings, model, hyperparameters, shown):
    with pytest.raises(InvalidTrainingRequestError, match=shown):
        parse_request("digits", model, hyperparameters, settings)


def test_all_problems_are_told_at_once(settings):
    model = {"architecture": "vgg", "model_id": "a b", "max_batch_size": -1, "x": 1}
    with pytest.raises(InvalidTrainingRequestError) as refusal:
        parse_request("digits", model, {"epochs": "many"}, settings)
    text = str(refusal.value)
    assert text.count("; ") >= 2
    for part in ("max_batch_size", "model_config.x", "hyperparameters.epochs"):
        assert part in text


@pytest.mark.parametrize("dataset_id", ["../digits", "", None, 7, "a/b", ["digits"]])
def test_a_dataset_id_that_is_no_name(settings, dataset_id):
    with pytest.raises(InvalidTrainingRequestError, match="dataset_id must be 1 to 128"):
        parse_request(dataset_id, {**CNN, "model_id": "m"}, {}, settings)


def test_a_dataset_that_is_not_there(settings):
    with pytest.raises(DatasetError, match="there is no dataset 'nowhere'"):
        parse_request("nowhere", CNN, {}, settings)


@pytest.mark.usefixtures("architectures_of_a_user")
def test_architectures_come_from_entry_points(settings):
    assert {"cnn", "mlp", "linear", "nothing"} <= set(architectures())
    assert parse_request("digits", {"architecture": "linear"}, {}, settings)
