"""Sequences, tokens and text: from columns to an exported model, and to one that Triton serves."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bridge.errors import DatasetError, InvalidTrainingRequestError
from bridge.settings import Settings
from bridge.tensors import Tensor
from bridge.training.architectures import Network, build
from bridge.training.datasets import DatasetStore
from bridge.training.examples import prepare
from bridge.training.export import compare, export
from bridge.training.fit import fit
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.probe import load_probe, save_probe
from bridge.training.request import ModelConfig, parse_request
from bridge.training.run import Training, Turn
from bridge.training.slicer import Slices
from bridge.training.tokenizer import Tokenizer
from bridge.triton_client import TritonClient

RANDOM = np.random.default_rng(0)
SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
LEARN = {"epochs": 8, "batch_size": 16, "learning_rate": 0.01}
ROWS = 240


def texts():
    """Praise and blame, of 2 to 12 words with some noise; the class is told by one word."""
    noise = ["the", "film", "was", "a", "plot,", "and", "Actors", "it's", "long!"]
    made, classes = [], np.arange(ROWS) % 2
    for kind in classes:
        words = list(RANDOM.choice(noise, RANDOM.integers(1, 12)))
        words.insert(RANDOM.integers(len(words) + 1), RANDOM.choice(WORDS[kind]))
        made.append(" ".join(words))
    return np.array(made), np.where(classes, "good", "bad")


WORDS = [["Awful", "boring", "bad."], ["GREAT", "lovely", "fine!"]]


def tokens():
    """Rows of 9 with 0 to 6 zeros at their end; the class is whether a 7 is among them."""
    ids = RANDOM.integers(8, 30, (ROWS, 9))
    classes = np.arange(ROWS) % 2
    ids[np.arange(ROWS), RANDOM.integers(0, 3, ROWS)] = np.where(classes, 7, 6)
    ids[np.arange(9) >= 9 - RANDOM.integers(0, 7, ROWS)[:, None]] = 0
    return ids, classes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    store = DatasetStore(root)
    text, labels = texts()
    store.add("texts", {"train": {"text": text, "label": labels}})
    ids, classes = tokens()
    store.add("tokens", {"train": {"ids": ids, "label": classes}})
    steps = RANDOM.normal(size=(ROWS, 6, 3)).astype(np.float32) * [1, 100, 0.01] + [0, 500, 0]
    store.add("steps", {"train": {"steps": steps, "target": steps[:, :, 1].mean(axis=1)}})
    return root


def examples(root, dataset, **model):
    splits = DatasetStore(root).load(dataset, seed=0, validation_fraction=0.25)
    return prepare(splits, ModelConfig(architecture="transformer", **model), sequences=True)


# ---- the network ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_it_takes_series_and_steps_of_numbers(shape):
    network = build("transformer", SMALL, shape, 4).eval()
    assert network(torch.randn(3, *shape)).shape == (3, 4)


def test_it_refuses_images_with_the_remedy():
    with pytest.raises(DatasetError, match=r"transformer takes .* for images use cnn"):
        build("transformer", {}, (3, 8, 8), 4)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"width": 30, "heads": 4}, "'width' 30 must be a multiple of 'heads' 4"),
        ({"layers": 0}, "options.layers: must be greater than or equal to 1"),
        ({"positions": "sine"}, "options.positions: there is no such field"),
    ],
)
def test_options_are_checked(options, shown):
    with pytest.raises(InvalidTrainingRequestError, match=shown):
        build("transformer", options, (5,), 2)


def test_padding_changes_nothing_and_strange_tokens_are_one():
    torch.manual_seed(0)
    network = build("transformer", SMALL, (6,), 2, vocabulary=9).eval()
    rows = torch.tensor([[3, 4, 0, 0, 0, 0], [3, 4, 5, 5, 5, 5], [8] * 6, [10**12] * 6, [0] * 6])
    answers = network(rows)
    assert answers.isfinite().all()  # nothing but padding too
    assert torch.equal(answers[2], answers[3])
    assert not torch.allclose(answers[0], answers[1])
    with torch.no_grad():
        network.positions[2:] = 7.0
        network.first.embed.weight[0] = 9.0
    torch.testing.assert_close(network(rows[:1]), answers[:1])


def test_each_feature_is_normalised_by_itself_and_tokens_are_not():
    rows = torch.randn(50, 6, 3) * torch.tensor([1.0, 100, 0.01])
    network = Network(torch.nn.Identity(), rows.numpy(), None, sequences=True)
    torch.testing.assert_close(network(rows).std((0, 1)), torch.ones(3), rtol=0.01, atol=0)
    tokens = torch.arange(8).reshape(2, 4)
    assert torch.equal(
        Network(torch.nn.Identity(), tokens.numpy(), None, sequences=True)(tokens), tokens
    )


# ---- text -------------------------------------------------------------------------------


def test_words_are_lower_case_commonest_first_and_signs_are_words():
    rows = np.array(["B b, a", "b\tÄÄ ää A!", "3.5 x_y", "", "  "], dtype=object)
    made = Tokenizer.learn(rows, 4, None)
    assert made == Tokenizer(("b", "a", "ää", "!"), 5)
    assert made.ids(rows).tolist() == [
        [2, 2, 1, 3, 0],
        [2, 4, 4, 3, 5],
        [1, 1, 1, 1, 0],
        [0] * 5,
        [0] * 5,
    ]
    assert made.ids(np.array([""], dtype=object)).tolist() == [[0] * 5]
    assert made.ids(np.array(["a " * 1000], dtype=object)).tolist() == [[3] * 5]


def test_the_vocabulary_is_that_of_train(root):
    made = examples(root, "texts", text={"vocabulary": 5, "length": 4})
    assert (made.words.vocabulary, made.input_shape) == (7, (4,))
    assert made.train.inputs.max() <= 6
    whole = examples(root, "texts")
    assert set(np.unique(whole.train.inputs)) == {0, *range(2, whole.words.vocabulary)}
    assert whole.train.inputs[:, -1].any()  # as long as the longest


def test_an_exported_model_reads_text_itself(root, tmp_path):
    made = examples(root, "texts")
    torch.manual_seed(0)
    inner = build("transformer", SMALL, made.input_shape, 2, made.words.vocabulary)
    network = Network(inner, made.train.inputs, None, sequences=True).eval()
    rows, asked = made.validation.inputs, made.words.texts[1]
    # A column may be called as something inside the network is.
    path = export(network, rows, ("add", "probabilities"), tmp_path, made.words.tokenizer)
    parity, answers = compare(network, path, rows, 64, asked)
    assert parity["batch_sizes"] == [1, 2, 7, 32]
    assert parity["class_agreement"] == 1.0
    model = onnx.load(path)
    assert model.ir_version == 10
    assert {item.domain: item.version for item in model.opset_import} == {
        "": 18, "ai.onnx.ml": 3, "com.microsoft": 1,
    }  # fmt: skip
    save_probe(tmp_path / "probe.npz", asked, answers)
    text, kept = load_probe(tmp_path / "probe.npz")
    assert [word.decode() for word in text[:, 0]] == asked[:, 0].tolist()
    np.testing.assert_array_equal(kept, answers)
    session = onnxruntime.InferenceSession(path)
    assert session.run(None, {"add": np.array([[""], ["ü \0"]], dtype=object)})[0].shape == (2, 2)


# ---- columns ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "shown"),
    [
        (np.full((ROWS, 3), -1), "whole numbers from -1 to -1, which are taken for tokens"),
        (np.full((ROWS, 3), 10**6), "must be 0 .padding. to 999,999. Store numbers to compute"),
        (np.full(ROWS, " "), "column 'x' holds no words in train"),
    ],
)
def test_columns_that_are_no_sequences(tmp_path, column, shown):
    DatasetStore(tmp_path).add("d", {"train": {"x": column, "y": np.arange(ROWS) % 2}})
    with pytest.raises(DatasetError, match=shown):
        examples(tmp_path, "d")


def test_several_columns_and_fractions_are_numbers(tmp_path):
    y = np.arange(ROWS) % 2
    DatasetStore(tmp_path).add("d", {"train": {"a": y, "b": y, "c": y / 2, "y": y}})
    assert examples(tmp_path, "d", inputs=["a", "b"]).words is None
    assert examples(tmp_path, "d", input="c").train.inputs.dtype == np.float32


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_values_are_learned_from_steps_of_numbers(root, tmp_path):
    made = examples(root, "steps")
    torch.manual_seed(0)
    inner = build("transformer", SMALL, made.input_shape, 1)
    values = made.train.targets
    network = Network(inner, made.train.inputs, values, sequences=True)
    metrics = fit(
        network, made, Hyperparameters(**LEARN), Slices(tmp_path, lambda _: None), lambda _: None
    )
    assert metrics["r2"] > 0.8
    path = export(network, made.validation.inputs, ("steps", "values"), tmp_path)
    assert compare(network, path, made.validation.inputs, 64)[0]["rows"] == 60


# ---- the whole way ----------------------------------------------------------------------


@pytest.fixture
async def client(triton):
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


async def go_live(root, triton, client, tmp_path, dataset, hyperparameters, variant="fp32"):
    settings = Settings(
        dataset_root=root, model_repository=triton.repository, checkpoint_root=tmp_path
    )
    model = {"architecture": "transformer", "model_id": f"live-{dataset}", "options": SMALL}
    model["variant"] = variant
    asked = parse_request(dataset, model, hyperparameters, settings)

    async def on_progress(_):
        pass

    return await Training(asked, f"{dataset}-{variant}", settings, client).go_on(
        Turn(), on_progress
    )


async def test_text_goes_live(root, triton, client, tmp_path):
    result = await go_live(root, triton, client, tmp_path, "texts", LEARN)
    assert result["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert result["labels"] == ["bad", "good"]
    assert result["metrics"]["accuracy"] >= 0.9
    assert result["parity"]["triton_max_abs_difference"] <= 1e-4
    rows = [["A GREAT film"], ["boring"], ["what an awful, awful plot! " * 99], [""], ["ζ"]]
    for part in (rows, rows[:1]):
        reply = await client.infer(
            "live-texts", {"text": Tensor.from_array(np.array(part, dtype=object))}, timeout_s=30
        )
        answers = reply.outputs["probabilities"].to_array()
        assert answers.shape == (len(part), 2)
        assert np.isfinite(answers).all()
        assert answers.argmax(1).tolist()[:3] == [1, 0, 0][: len(part)]


async def test_tokens_go_live(root, triton, client, tmp_path):
    result = await go_live(root, triton, client, tmp_path, "tokens", LEARN)
    assert result["inputs"] == [{"name": "ids", "datatype": "INT64", "shape": [-1, 9]}]
    assert result["metrics"]["accuracy"] >= 0.9
    rows = np.array([[9, 7, 9] + [0] * 6, [9, 6, 9] + [0] * 6, [10**9] * 9])
    reply = await client.infer("live-tokens", {"ids": Tensor.from_array(rows)}, timeout_s=30)
    assert reply.outputs["probabilities"].to_array().argmax(1)[:2].tolist() == [1, 0]


async def test_text_goes_live_as_a_variant(root, triton, client, tmp_path):
    result = await go_live(root, triton, client, tmp_path, "texts", LEARN, "int8")
    assert result["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert result["variant"]["triton_max_abs_difference"] <= result["variant"]["tolerance"]
    assert result["variant"]["class_agreement"] >= 0.95
    rows = np.array([["A GREAT film"], ["boring"]], dtype=object)
    reply = await client.infer("live-texts", {"text": Tensor.from_array(rows)}, timeout_s=30)
    assert reply.outputs["probabilities"].to_array().argmax(1).tolist() == [1, 0]
