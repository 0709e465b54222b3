"""What the hyperparameters do, on data small enough for a second."""

import time

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from bridge.errors import InvalidTrainingRequestError
from bridge.training.architectures import Network
from bridge.training.examples import Examples, Rows
from bridge.training.export import compare, export
from bridge.training.feed import Feed
from bridge.training.fit import answers, fit, judging_rows
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.learner import Learner
from bridge.training.losses import make_loss
from bridge.training.schedules import make_optimizer, make_schedule
from bridge.training.slicer import Slices

# Lightning calls a name that torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 4)).astype(np.float32)
RARE = (X[:, 0] + RANDOM.normal(size=200) * 0.7 > 1.5).astype(np.int64)  # about one in ten
LABELS = ("no", "yes")


def examples(targets, task="classification", labels=LABELS):
    rows = [Rows(X[part], targets[part]) for part in (slice(160), slice(160, 200))]
    return Examples(*rows, task, ("x",), "y", labels)


def small_network(values=None):
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))
    return Network(inner, X[:160], values)


def learn(tmp_path, made=None, network=None, **parameters):
    network = network or small_network()
    seen = []
    given = Hyperparameters(**{"epochs": 2, "batch_size": 16, **parameters})
    slices = Slices(tmp_path, lambda _: None)
    metrics = fit(network, made or examples(RARE), given, slices, seen.append)
    return network, metrics, seen


def rates(steps=100, **parameters):
    """The learning rate of each step."""
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], Hyperparameters(**parameters))
    schedule = make_schedule(optimizer, Hyperparameters(**parameters), steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("schedule", "warmup", "highest", "last"),
    [
        ("one_cycle", None, 29, 1e-6),
        ("one_cycle", 0.5, 49, 1e-6),
        ("one_cycle", 0.01, 0, 1e-3),  # a rise of one step
        ("cosine", None, 0, 1e-3),
        ("cosine", 0.2, 20, 1e-3),
        ("constant", None, 0, 0.5),
        ("constant", 0.2, 20, 0.5),
    ],
)
def test_rates_rise_for_their_share_and_end_where_they_should(
    optimizer, schedule, warmup, highest, last
):
    found = rates(optimizer=optimizer, schedule=schedule, warmup_fraction=warmup, learning_rate=0.5)
    assert int(np.argmax(np.round(found, 9))) == highest
    assert found[highest] == pytest.approx(0.5, rel=1e-3)
    assert found[-1] == pytest.approx(last, abs=last)


class Halt(Callback):
    """Saves Lightning's checkpoint at one step, in the middle of an epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 5:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize(
    "parameters",
    [
        {"schedule": "cosine", "warmup_fraction": 0.2, "class_weights": "balanced"},
        {"optimizer": "sgd", "schedule": "constant", "warmup_fraction": 0.8, "accumulate": 2},
        {"optimizer": "sgd", "clip": 0.1, "label_smoothing": 0.1},
        {"precision": "bf16-mixed"},
    ],
    ids=["cosine", "accumulate", "one-cycle", "bf16"],
)
def test_a_checkpoint_goes_on_exactly(tmp_path, parameters):
    given = Hyperparameters(epochs=3, learning_rate=0.05, **parameters)

    def train(callbacks, checkpoint=None):
        network = small_network()
        network.inner[1].p = 0.0  # its numbers come from torch's own generator
        loss = make_loss("classification", RARE[:160], LABELS, given)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=3,
            precision=given.precision,
            accumulate_grad_batches=given.accumulate,
            gradient_clip_val=given.clip,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        steps = 30 // given.accumulate
        trainer.fit(
            Learner(network, given, loss, steps, 2),
            Feed(Rows(X[:160], RARE[:160]), 16, seed=0),
            Feed(Rows(X[160:], RARE[160:]), 40),
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        return network.state_dict()

    whole = train([Halt(tmp_path / "c.ckpt")])
    parts = train([], tmp_path / "c.ckpt")
    for name, weight in whole.items():
        assert torch.equal(weight, parts[name]), name


def test_gathered_gradients_are_fewer_steps(tmp_path):
    _, _, seen = learn(tmp_path, accumulate=4)
    assert seen[-1]["step"] == seen[-1]["steps"] == 2 * 3  # 10 batches, the last 2 together
    assert seen[-1]["time_left_s"] == 0


def test_clipped_gradients_move_weights_no_farther(tmp_path):
    before = small_network().state_dict()
    plain = {"optimizer": "sgd", "momentum": 0, "schedule": "constant", "weight_decay": 0}
    network, _, seen = learn(tmp_path, learning_rate=1, clip=1e-3, **plain)
    moved = [(after - before[name]).norm() for name, after in network.state_dict().items()]
    assert 0 < torch.stack(moved).norm() <= seen[-1]["steps"] * 1.001e-3


def test_class_weights_find_the_rare_class(tmp_path):
    made = examples(RARE)
    rows, rare = torch.from_numpy(X[160:]), RARE[160:] == 1

    def recall(**parameters):
        network, _, _ = learn(tmp_path, made, epochs=10, learning_rate=0.02, **parameters)
        return float((network.answer(rows).argmax(1).numpy() == 1)[rare].mean())

    even = recall()
    assert recall(class_weights="balanced") > even
    assert recall(class_weights={"yes": 12}) > even
    with pytest.raises(InvalidTrainingRequestError, match=r"no labels 'maybe'; .* 'no', 'yes'"):
        recall(class_weights={"maybe": 2})


def test_balanced_weights_are_in_inverse_proportion_to_the_rows():
    loss = make_loss(
        "classification", np.array([0, 0, 0, 1]), LABELS, Hyperparameters(class_weights="balanced")
    )
    assert loss.weight.tolist() == pytest.approx([4 / 6, 2])


def test_smoothed_labels_make_less_certain_answers(tmp_path):
    rows, sure = torch.from_numpy(X[160:]), []
    for smoothing in (0.0, 0.4):
        network, _, _ = learn(tmp_path, epochs=8, learning_rate=0.05, label_smoothing=smoothing)
        sure.append(float(network.answer(rows).max(1).values.detach().mean()))
    assert sure[1] < sure[0]


def test_values_have_no_classes_to_weigh(tmp_path):
    made = examples(X[:, :2], "regression", ())
    for parameters in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(InvalidTrainingRequestError, match="are for classes"):
            learn(tmp_path, made, small_network(X[:160, :2]), **parameters)


def test_bf16_learns_and_16_bits_need_a_gpu(tmp_path, monkeypatch):
    _, metrics, _ = learn(tmp_path, epochs=5, learning_rate=0.02, precision="bf16-mixed")
    assert metrics["accuracy"] >= 0.85
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidTrainingRequestError, match='"16-mixed" needs a CUDA GPU'):
        learn(tmp_path, precision="16-mixed")


FLAGS = np.stack([X[:, 0] > 0, X[:, 1] > 1, X[:, 2] + X[:, 3] > 0], axis=1).astype(np.float32)


def labels_network():
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    return Network(inner, X[:160], None, multi_label=True)


def test_several_labels_at_once_from_training_to_onnx(tmp_path):
    made = examples(FLAGS, "multi-label", ("a", "b", "c"))
    network, metrics, seen = learn(
        tmp_path, made, labels_network(), epochs=15, learning_rate=0.05, class_weights="balanced"
    )
    assert set(metrics) == {"f1", "exact_match", "accuracy", "loss", "epochs", "training_s"}
    assert metrics["exact_match"] < metrics["accuracy"]
    assert metrics["f1"] > 0.85
    assert seen[-1]["metric"] == "f1"
    assert seen[-1]["value"] == pytest.approx(metrics["f1"])
    path = export(network, X[160:], ("x", "probabilities"), tmp_path)
    parity, answers = compare(network, path, X[160:], 64)
    assert parity["class_agreement"] == 1.0
    assert not np.allclose(answers.sum(axis=1), 1)  # each label by itself
    found = answers >= 0.5
    wanted = FLAGS[160:] == 1
    assert metrics["exact_match"] == pytest.approx((found == wanted).all(axis=1).mean())
    assert metrics["accuracy"] == pytest.approx((found == wanted).mean())
    both = 2 * (found & wanted).sum()
    assert metrics["f1"] == pytest.approx(both / (both + (found != wanted).sum()))


def test_balanced_labels_count_ones_as_much_as_zeros():
    given = Hyperparameters(class_weights="balanced")
    flags = np.array([[0, 1], [0, 1], [0, 1], [1, 1]], np.float32)
    weight = make_loss("multi-label", flags, LABELS, given).loss.pos_weight
    assert weight.tolist() == pytest.approx([3, 1e-3])
    named = Hyperparameters(class_weights={"yes": 4})
    assert make_loss("multi-label", flags, LABELS, named).loss.pos_weight.tolist() == [1, 4]


def test_smoothed_labels_wish_for_less_than_certainty():
    loss = make_loss("multi-label", FLAGS, LABELS, Hyperparameters(label_smoothing=0.2))
    wanted = torch.tensor([[1.0, 0.0]])
    best = torch.logit(torch.tensor([[0.9, 0.1]]))
    assert loss(best, wanted) < loss(best * 1.2, wanted)
    assert loss(best, wanted) < loss(best * 0.8, wanted)


@pytest.mark.parametrize(
    ("shape", "trained", "rows"),
    [((3, 224, 224), 64, 111), ((3, 224, 224), 256, 256), ((4096, 4096), 1, 1), ((4,), 4096, 1024)],
)
def test_large_rows_are_judged_some_at_a_time(shape, trained, rows):
    assert judging_rows(np.zeros((2, *shape), np.float32), trained) == rows


@pytest.mark.parametrize(("batch_size", "judged"), [(4, 10), (16, 16)])
@pytest.mark.parametrize("more", [{}, {"class_weights": "balanced", "label_smoothing": 0.1}])
def test_smaller_pieces_are_judged_alike(tmp_path, monkeypatch, batch_size, judged, more):
    given = {"batch_size": batch_size, **more}
    _, at_once, seen = learn(tmp_path, **given)
    network, sizes = small_network(), []
    network.register_forward_pre_hook(
        lambda module, given: None if module.training else sizes.append(len(given[0]))
    )
    monkeypatch.setattr("bridge.training.fit._JUDGING_BYTES", 10 * X[0].nbytes)
    _, in_pieces, seen_in_pieces = learn(tmp_path, network=network, **given)
    assert max(sizes) == judged
    for metrics in (at_once, in_pieces):
        del metrics["training_s"]
    assert in_pieces == pytest.approx(at_once, rel=1e-5)
    for one, other in zip(seen[-1]["curve"], seen_in_pieces[-1]["curve"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_answers_are_computed_where_the_network_is():
    class Elsewhere(torch.nn.Linear):
        def answer(self, rows):
            places.append(rows.device.type)
            return torch.zeros(len(rows), 2)

    places = []
    found = list(answers(Elsewhere(4, 2, device="meta"), X))
    assert places == ["meta"]
    assert [len(piece) for piece in found] == [len(X)]


def test_slow_judging_gives_signs_of_life(tmp_path, monkeypatch):
    def slow(network, rows):
        time.sleep(0.1)
        return answer(network, rows)

    answer = Network.answer
    monkeypatch.setattr(Network, "answer", slow)
    monkeypatch.setattr("bridge.training.fit._TELL_EVERY_S", 0.01)
    _, metrics, seen = learn(tmp_path)
    assert {"stage": "judging"} in seen
    assert seen[0]["epoch"] == 1
    assert 0 <= metrics["accuracy"] <= 1
