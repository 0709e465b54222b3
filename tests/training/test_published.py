"""Going on from a published version: its weights are kept beside the ONNX, and begin another."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from bridge.errors import InvalidTrainingRequestError
from bridge.repository import ModelRepository
from bridge.training.architectures import build
from bridge.training.pretrained import begin_with, save_weights
from bridge.training.published import WEIGHTS, find_ancestor
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

CNN = {"architecture": "cnn", "options": {"channels": [4, 4]}}


async def ignore(_record):
    pass


async def test_a_training_goes_on_from_a_version_and_needs_it_at_its_beginning_only(
    settings, fake_triton
):
    ours = settings.model_copy(update={"bridge_checkpoint_every_s": 1000.0})

    def begin(task_id, model, **parameters):
        request = parse_request("few", {**CNN, **model}, parameters, ours)
        return Training(request, task_id, ours, fake_triton)

    async def stop_soon(record):
        if "step" in record:
            turn.stop.set()

    await begin("one", {"model_id": "first"}, epochs=2).go_on(Turn(), ignore)
    home = ours.model_repository / "first"
    before = load_file(home / "1" / WEIGHTS)
    card = json.loads((home / "1" / "card.json").read_text())
    assert card["kept_weights"] == {
        "file": WEIGHTS,
        "tensors": len(before),
        "bytes": (home / "1" / WEIGHTS).stat().st_size,
    }
    assert WEIGHTS.replace("_", "\\_") in (home / "1" / "card.md").read_text()

    asked = {"model_id": "second", "from_model": "first", "from_version": 1, "freeze": True}
    turn = Turn(1, 1)
    going = begin("two", asked, epochs=40, batch_size=8, learning_rate=0.01)
    assert await going.go_on(turn, stop_soon) is None
    shutil.rmtree(home)  # nothing is read of it any more
    going = begin("two", asked, epochs=40, batch_size=8, learning_rate=0.01)
    result = await going.go_on(Turn(2, 2), ignore)
    assert result["weights"] == {
        "model": "first",
        "version": "1",
        "loaded": len(before),
        "initialised": [],
        "frozen": True,
    }
    after = load_file(ours.model_repository / "second" / "1" / WEIGHTS)
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"10.weight", "10.bias"}


@pytest.fixture
def root(tmp_path):
    """A repository with two versions that keep their weights, one that does not, and a link."""
    root = tmp_path / "models"
    for version in ("2", "3", "4"):
        (root / "digits" / version).mkdir(parents=True)
        (root / "digits" / version / "card.json").write_text('{"model": {"architecture": "cnn"}}')
    for version in ("2", "3"):
        save_weights(build("cnn", {}, (8, 8), 10), root / "digits" / version / WEIGHTS)
    (root / "linked" / "1").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (root / "linked" / "1" / WEIGHTS).symlink_to(tmp_path / "outside")
    return root


@pytest.mark.parametrize(
    ("model", "version", "architecture", "shown"),
    [
        ("digit", None, "cnn", "from_model: there is no model 'digit' in .*are 'digits', 'linked'"),
        (
            "digits",
            "9",
            "cnn",
            "from_version: model 'digits' has no version 9; it has '2', '3', '4",
        ),
        ("digits", None, "cnn", "version 4 of 'digits' keeps no weights"),
        ("digits", "3", "mlp", "version 3 of 'digits' is of architecture 'cnn', and 'mlp' was"),
        ("linked", None, "cnn", "a link that leads out of"),
    ],
)
def test_what_cannot_be_begun_with(root, model, version, architecture, shown):
    with pytest.raises(InvalidTrainingRequestError, match=shown):
        find_ancestor(root, model, version, architecture)


def test_the_newest_is_meant_where_none_is_named(root):
    assert find_ancestor(root, "digits", "2", "cnn").version == 2
    shutil.rmtree(root / "digits" / "4")
    found = find_ancestor(root, "digits", None, "cnn")
    assert (found.version, found.path) == (3, root / "digits" / "3" / WEIGHTS)
    with pytest.raises(
        InvalidTrainingRequestError, match=r"from_model: 'weights.safetensors' does"
    ):
        begin_with(
            build("cnn", {"channels": [5]}, (8, 8), 10),
            found.path,
            freeze=False,
            field="model_config.from_model",
        )


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"from_model": "../digits"}, "model_config.from_model must be 1 to 128 characters"),
        ({"from_model": ".hidden"}, "model_config.from_model must be 1 to 128 characters"),
        ({"from_model": "digits", "from_version": "0"}, "from_version: String should match"),
        ({"from_model": "digits", "from_version": "../1"}, "from_version: String should match"),
        ({"from_model": "digits", "from_version": True}, "from_version: must be a valid string"),
        ({"from_version": 1}, "'from_version' needs 'from_model'"),
        ({"from_model": "a", "weights": "b.pt"}, "'weights' and 'from_model' say the same"),
    ],
)
def test_what_a_request_may_not_say(settings, model, shown):
    with pytest.raises(InvalidTrainingRequestError, match=shown):
        parse_request("few", {"architecture": "cnn", **model}, {}, settings)


async def test_it_is_told_before_a_process_starts(settings, fake_triton, monkeypatch):
    monkeypatch.setattr("bridge.training.run.train_in_process", None)
    request = parse_request("few", {**CNN, "from_model": "absent"}, {}, settings)
    with pytest.raises(InvalidTrainingRequestError, match=r"no model 'absent' in .*are none"):
        await Training(request, "t", settings, fake_triton).go_on(Turn(), ignore)
    assert ModelRepository(settings.model_repository).models() == []


def test_tied_weights_are_kept_under_both_names(tmp_path):
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert save_weights(tied, tmp_path / WEIGHTS)["tensors"] == 4
    found = load_file(tmp_path / WEIGHTS)
    assert torch.equal(found["0.weight"], found["1.weight"])


def test_a_place_that_takes_no_weights_is_the_systems_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        save_weights(torch.nn.Linear(1, 1), tmp_path / "absent" / WEIGHTS)
