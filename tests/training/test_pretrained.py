"""Weights of the user's own: what is loaded, what is refused, and what stays frozen."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bridge.errors import InvalidTrainingRequestError
from bridge.training.architectures import build
from bridge.training.datasets import DatasetStore
from bridge.training.export import export
from bridge.training.job import work
from bridge.training.pretrained import begin_with, weights_file
from bridge.training.request import parse_request

OPTIONS = {"channels": [4, 6], "dropout": 0.5}
SHAPE = (8, 8)


def network(outputs=10, **options):
    return build("cnn", {**OPTIONS, **options}, SHAPE, outputs)


@pytest.fixture(params=["safetensors", "pt", "pth"])
def path(request, tmp_path):
    path = tmp_path / f"mine.{request.param}"
    torch.manual_seed(7)
    state = network().state_dict()
    if request.param == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_all_weights_are_loaded_by_name(path):
    made = network()
    told = begin_with(made, weights_file(path.parent, path.name), freeze=False)
    assert told == {
        "file": path.name,
        "loaded": len(made.state_dict()),
        "initialised": [],
        "frozen": False,
    }
    torch.manual_seed(7)
    for name, weight in network().state_dict().items():
        assert torch.equal(weight, made.state_dict()[name])
    assert all(weight.requires_grad for weight in made.parameters())


def test_a_head_for_other_classes_is_drawn_anew(path):
    made = network(outputs=3)
    head = made[-1].weight.clone()
    told = begin_with(made, path, freeze=True)
    assert told["initialised"] == ["10.bias", "10.weight"]
    assert torch.equal(made[-1].weight, head)
    learning = [name for name, weight in made.named_parameters() if weight.requires_grad]
    assert learning == ["10.weight", "10.bias"]
    assert [module.training for module in made] == [False] * 10 + [True]


def test_what_does_not_fit_is_told_by_name(path):
    with pytest.raises(InvalidTrainingRequestError, match=r"of another shape: 1\.weight \[4, 1, 3"):
        begin_with(network(channels=[5, 6]), path, freeze=False)
    with pytest.raises(InvalidTrainingRequestError, match=r"missing: 8\.weight, .*unknown: 10\.b"):
        begin_with(network(channels=[4, 6, 6]), path, freeze=False)


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_files_that_hold_more_than_tensors(tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Harm()))
    torch.save({"weight": Harm()}, tmp_path / "b.pt")
    (tmp_path / "c.safetensors").write_bytes(b"not this")
    for name in ("a.pt", "b.pt", "c.safetensors"):
        with pytest.raises(InvalidTrainingRequestError, match="as nothing but tensors"):
            begin_with(network(), tmp_path / name, freeze=False)
    assert capsys.readouterr().out == ""
    torch.save([torch.zeros(1)], tmp_path / "d.pt")
    torch.save({"state": {"weight": torch.zeros(1)}}, tmp_path / "e.pt")
    for name in ("d.pt", "e.pt"):
        with pytest.raises(InvalidTrainingRequestError, match="is no state dict"):
            begin_with(network(), tmp_path / name, freeze=False)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../mine.pt", "must be 1 to 128"),
        ("/etc/mine.pt", "must be 1 to 128"),
        ("few", "must end with .safetensors, .pt, .pth, got 'few'"),
        ("none.pt", "there is no file 'none.pt'"),
        ("link.pt", "is a link that leads out of"),
    ],
)
def test_only_files_under_the_root(settings, tmp_path, name, shown):
    root = tmp_path / "root"
    DatasetStore(root).add("d", {"train": {"x": np.eye(20), "y": np.arange(20) % 2}})
    (tmp_path / "mine.pt").touch()
    (root / "link.pt").symlink_to(tmp_path / "mine.pt")
    settings = settings.model_copy(update={"dataset_root": root})
    with pytest.raises(InvalidTrainingRequestError, match=shown):
        parse_request("d", {"architecture": "mlp", "weights": name}, {}, settings)
    with pytest.raises(
        InvalidTrainingRequestError, match="'freeze' needs 'weights' or 'from_model'"
    ):
        parse_request("d", {"architecture": "mlp", "freeze": True}, {}, settings)


@pytest.fixture
def job(settings, digits, tmp_path):
    """Runs a whole job in this process; gives its result and its request."""
    root = tmp_path / "root"
    images, classes = digits
    DatasetStore(root).add("d", {"train": {"image": images[:400], "y": classes[:400]}})
    settings = settings.model_copy(update={"dataset_root": root})

    def run(model, **hyperparameters):
        request = parse_request("d", {"architecture": "cnn", **model}, hyperparameters, settings)
        folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        lines = {}
        work(
            {"request": request.model_dump(mode="json"), "dataset_root": str(root)},
            folder,
            lines.__setitem__,
        )
        return lines["result"]

    return SimpleNamespace(run=run, root=root)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:Found 10 module.s. in eval mode")  # they shall be
def test_a_frozen_network_learns_with_its_head_alone(job, monkeypatch):
    torch.manual_seed(3)
    options = {"channels": [16, 16], "dropout": 0.0}
    state = network(outputs=4, **options).state_dict()
    save_file(state, job.root / "mine.safetensors")
    kept = {}
    monkeypatch.setattr(
        "bridge.training.proof.export",
        lambda network, *rest: kept.update(network.inner.state_dict()) or export(network, *rest),
    )
    result = job.run(
        {"weights": "mine.safetensors", "freeze": True, "options": options},
        epochs=6,
        learning_rate=0.05,
        patience=2,
    )
    assert result["weights"]["initialised"] == ["10.bias", "10.weight"]
    for name, weight in state.items():
        if not name.startswith("10."):
            assert torch.equal(kept[name], weight), name
    assert result["metrics"]["accuracy"] > 0.3  # ten classes, random convolutions
