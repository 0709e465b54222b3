"""Stopped anywhere and gone on with, a training ends with the very same weights."""

import tempfile

import numpy as np
import pytest

import bridge.training  # noqa: F401 - before torch: it hides the folder `triton`

lightning = pytest.importorskip("lightning", reason="the tests need the `train` extra")
torch = pytest.importorskip("torch")

from bridge.training import architectures  # noqa: E402
from bridge.training.architectures import Network  # noqa: E402
from bridge.training.examples import Examples, Rows  # noqa: E402
from bridge.training.fit import fit  # noqa: E402
from bridge.training.request import Hyperparameters  # noqa: E402
from bridge.training.slicer import SliceEnded, Slices  # noqa: E402

# Lightning's own: of a name that torch deprecates, of few processors, of short epochs.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning", "ignore:::torch")

ROWS, JUDGED, CLASSES = 72, 17, 3


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    targets = np.arange(ROWS + JUDGED) % CLASSES
    inputs = rng.normal(size=(ROWS + JUDGED, 6, 6)) + targets[:, None, None]
    inputs, targets = inputs.astype(np.float32), targets.astype(np.int64)
    train, held = Rows(inputs[:ROWS], targets[:ROWS]), Rows(inputs[ROWS:], targets[ROWS:])
    return Examples(train, held, "classification", ("image",), "target", tuple("abc"))


def run(examples, parameters, folder, stops=()):
    """Train with a stop after so many batches of each slice; returns weights and metrics."""
    resume = None
    for stop in (*stops, None):
        lightning.seed_everything(parameters.seed, verbose=False)
        inner = architectures.build("cnn", {}, examples.input_shape, examples.outputs)
        network = Network(inner, examples.train.inputs, None)
        saved, asked = [], iter(range(1, 10_000))
        slices = Slices(
            folder=folder,
            saved=saved.append,
            resume=resume,
            stop=lambda stop=stop, asked=asked: stop is not None and next(asked) >= stop,
        )
        try:
            metrics = fit(network, examples, parameters, slices, lambda _record: None)
        except SliceEnded:
            resume = folder / saved[-1]["file"]
        else:
            assert stop is None, "it ended before it was stopped"
            del metrics["training_s"]
            return network.state_dict(), metrics
    raise AssertionError


@pytest.mark.parametrize("batch_size", [8, 72])
def test_it_ends_with_the_same_weights_to_the_last_bit(examples, batch_size, tmp_path):
    parameters = Hyperparameters(epochs=6, batch_size=batch_size, patience=2, seed=5)
    weights, metrics = run(examples, parameters, tmp_path)
    steps = 54 if batch_size == 8 else 6
    rng = np.random.default_rng(batch_size)
    plans = [[1], [steps - 1], [1] * 4, rng.integers(1, max(2, steps // 6), 4).tolist()]
    if batch_size == 8:  # the last batch of an epoch, the one before it, and the next
        plans += [[8], [9], [10]]
    for stops in plans:
        again, found = run(examples, parameters, tmp_path, stops)
        assert found == metrics, stops
        for name, value in weights.items():
            assert torch.equal(again[name], value), (stops, name)


def test_checkpoints_need_no_room_for_temporary_files(examples, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    parameters = Hyperparameters(epochs=2, batch_size=8)
    run(examples, parameters, tmp_path, [3])
    assert {path.name for path in tmp_path.iterdir()} == {"step-3.ckpt", "finished.ckpt"}


def test_a_trained_network_is_not_trained_again(examples, tmp_path):
    parameters = Hyperparameters(epochs=2, batch_size=8)
    weights, metrics = run(examples, parameters, tmp_path)
    network = Network(
        architectures.build("cnn", {}, examples.input_shape, examples.outputs),
        examples.train.inputs,
        None,
    )
    slices = Slices(
        folder=tmp_path, saved=pytest.fail, resume=tmp_path / "finished.ckpt", finished=True
    )
    found = fit(network, examples, parameters, slices, pytest.fail)
    del found["training_s"]
    assert found == metrics
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
