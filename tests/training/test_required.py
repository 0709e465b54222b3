"""What a network must come to before it goes live."""

import pytest
import torch

from bridge.errors import InvalidTrainingRequestError, NotGoodEnoughError
from bridge.training.judging import check_good_enough, check_required, judge, progress_value
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import METRICS, parse_request

FLAGS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
JUDGED = {
    "classification": (FLAGS, torch.tensor([0, 1])),
    "multi-label": (FLAGS, FLAGS),
    "regression": (FLAGS, FLAGS),
}


@pytest.mark.parametrize("task", METRICS)
def test_every_metric_that_may_be_required_is_found(task):
    assert set(judge(task, *JUDGED[task])) == set(METRICS[task])


@pytest.mark.parametrize(
    ("required", "found", "short"),
    [
        ({"accuracy": 0.9, "loss": 0.2}, {"accuracy": 0.9, "loss": 0.2}, None),
        ({}, {"accuracy": 0.0}, None),
        ({"accuracy": 0.9}, {"accuracy": 0.85}, "accuracy is 0.85, and 0.9 is the least"),
        ({"rmse": 2}, {"rmse": 2.5}, "rmse is 2.5, and 2 is the most"),
        ({"r2": 0.5}, {"r2": float("nan")}, "r2 is nan"),
        ({"loss": 0.5}, {"loss": float("nan")}, "loss is nan"),
        ({"f1": 0.9, "loss": 1}, {"f1": 0.1, "loss": 2}, "f1 is 0.1.*; loss is 2"),
        ({"r2": 0.9, "rmse": 1e-9}, {"r2": 0.9 - 1e-8, "rmse": 1e-9 * (1 + 1e-8)}, None),
        ({"rmse": 1e-9}, {"rmse": 2e-9}, "rmse is 2e-09, and 1e-09 is the most"),
    ],
)
def test_each_that_falls_short_is_named(required, found, short):
    if short is None:
        check_good_enough(required, found)
        return
    with pytest.raises(NotGoodEnoughError, match=short):
        check_good_enough(required, found)


def test_nine_of_ten_are_not_less_than_nine_tenths():
    right = torch.eye(2)[[0] * 10]
    found = judge("classification", right, torch.tensor([0] * 9 + [1]))
    assert (
        found["accuracy"] == progress_value("classification", right, torch.arange(10) // 9) == 0.9
    )
    found = judge("multi-label", right, torch.eye(2)[[0] * 9 + [1]])
    assert (found["exact_match"], found["accuracy"], found["f1"]) == (0.9, 0.9, 0.9)
    assert judge("multi-label", torch.zeros(2, 2), torch.zeros(2, 2))["f1"] == 0


def test_a_value_of_small_numbers_counts_as_much_as_another():
    wanted = torch.tensor([[1e5, 1.0], [2e5, 2.0], [3e5, 3.0], [4e5, 4.0]])
    found = torch.stack([wanted[:, 0], wanted[:, 1].mean().expand(4)], dim=1)
    assert judge("regression", found, wanted)["r2"] == 0.5
    always = torch.ones(4, 1)
    assert judge("regression", always, always)["r2"] == 0


def test_a_metric_of_another_task():
    check_required("regression", {"rmse": 1.0})
    with pytest.raises(InvalidTrainingRequestError, match="rmse is no metric of classification"):
        check_required("classification", {"rmse": 1.0, "loss": 1.0})


async def ignore(*_):
    pass


@pytest.mark.parametrize(
    ("require", "kind", "shown"),
    [
        ({"accuracy": 0.999}, NotGoodEnoughError, r"accuracy is 0\.\d+, and 0.999 is the least"),
        ({"r2": 0.5}, InvalidTrainingRequestError, "r2 is no metric of classification"),
    ],
)
async def test_nothing_is_exported(settings, tmp_path, require, kind, shown):
    model = {"architecture": "mlp", "require": require}
    request = parse_request("few", model, {"epochs": 1}, settings)
    listeners = Listeners(lambda _: None, ignore, ignore)
    with pytest.raises(kind, match=shown):
        await train_in_process(request, tmp_path, settings.dataset_root, Piece(), listeners)
    assert not (tmp_path / "version").exists()


async def test_a_variant_must_come_to_it_too(settings, tmp_path):
    async def train(folder, **model):
        model = {"architecture": "cnn", "variant": "int8", "max_accuracy_loss": 1.0, **model}
        request = parse_request("few", model, {"epochs": 2}, settings)
        listeners = Listeners(lambda _: None, ignore, ignore)
        (tmp_path / folder).mkdir()
        return await train_in_process(
            request, tmp_path / folder, settings.dataset_root, Piece(), listeners
        )

    found = (await train("free")).result
    loss, served = found["metrics"]["loss"], found["variant"]["metrics"]["loss"]
    assert loss != served
    if served < loss:  # rounding may do good: then the network itself falls short
        loss, served = served, loss
    with pytest.raises(NotGoodEnoughError, match="loss is"):
        await train("bound", require={"loss": (loss + served) / 2})
