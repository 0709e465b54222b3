"""FP16 and INT8: for each architecture, how far they are from torch, and when they are refused."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError

from bridge.errors import ExportError, InvalidTrainingRequestError
from bridge.tensors import Array
from bridge.training import proof, variants
from bridge.training.architectures import Network, build
from bridge.training.examples import Examples, Rows
from bridge.training.fit import answers, fit
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.job import signature_of
from bridge.training.judging import judge, lost
from bridge.training.probe import load_probe
from bridge.training.proof import Trained, prove
from bridge.training.request import ModelConfig
from bridge.training.slicer import Slices
from bridge.training.tokenizer import Tokenizer
from bridge.training.words import Words

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

RANDOM = np.random.default_rng(0)
SMALL = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}
CUT = 240


def split(inputs: Array, targets: Array) -> list[Rows]:
    return [Rows(inputs[part], targets[part]) for part in (slice(CUT), slice(CUT, None))]


def table():
    # One column is far larger than float16 holds, one is far from zero for its spread.
    x = (RANDOM.normal(size=(320, 3)) * [1, 3e6, 1] + [0, 0, 5000]).astype(np.float32)
    y = (x[:, 0] + x[:, 1] / 3e6 > 0).astype(np.int64) + (x[:, 2] > 5000)
    return Examples(*split(x, y), "classification", ("a", "b", "c"), "y", ("p", "q", "r"))


def values():
    x = RANDOM.normal(size=(320, 3)).astype(np.float32)
    y = (1e6 + 2e5 * (x @ np.array([[1], [2], [-1]]))).astype(np.float32)
    return Examples(*split(x, y), "regression", ("a", "b", "c"), "y", ())


def flags():
    x = RANDOM.normal(size=(320, 4)).astype(np.float32)
    return Examples(
        *split(x, (x > 0)[:, :3].astype(np.float32)), "multi-label", ("x",), "y", (*"abc",)
    )


def tokens():
    ids = RANDOM.integers(8, 30, (320, 9))
    y = np.arange(320) % 2
    ids[np.arange(320), RANDOM.integers(0, 3, 320)] = np.where(y, 7, 6)
    ids[np.arange(9) >= 9 - RANDOM.integers(0, 7, 320)[:, None]] = 0
    words = Words([ids[:CUT], ids[CUT:]], 30, None, [])
    return Examples(*split(ids, y), "classification", ("ids",), "y", ("no", "yes"), words)


def text():
    y = np.arange(320) % 2
    noise = RANDOM.choice(["the", "film", "was", "a", "plot"], (320, 5))
    noise[np.arange(320), RANDOM.integers(0, 5, 320)] = np.where(y, "good", "bad")
    raw = np.array([" ".join(words) for words in noise], dtype=object)
    tokenizer = Tokenizer.learn(raw[:CUT], 100, None)
    ids = tokenizer.ids(raw)
    texts = [raw[:CUT, None], raw[CUT:, None]]
    words = Words([ids[:CUT], ids[CUT:]], tokenizer.vocabulary, tokenizer, texts)
    return Examples(*split(ids, y), "classification", ("text",), "y", ("bad", "good"), words)


def images(digits):
    return Examples(
        *split(digits[0][:400], digits[1][:400].astype(np.int64)),
        "classification", ("image",), "y", tuple("0123456789"),
    )  # fmt: skip


def train(examples, architecture, options, folder):
    """A trained network and what is known of it."""
    sequences = architecture == "transformer"
    torch.manual_seed(0)
    vocabulary = examples.words.vocabulary if examples.words else None
    inner = build(architecture, options, examples.input_shape, examples.outputs, vocabulary)
    network = Network(
        inner,
        examples.train.inputs,
        examples.train.targets if examples.task == "regression" else None,
        multi_label=examples.task == "multi-label",
        sequences=sequences,
    )
    parameters = Hyperparameters(epochs=8, batch_size=16, learning_rate=0.01)
    metrics = fit(network, examples, parameters, Slices(folder, lambda _: None), lambda _: None)
    return Trained(network, examples, signature_of(examples, 64), metrics)


MADE = {
    "table": (table, "mlp", {"hidden": [64, 32]}),
    "values": (values, "mlp", {"hidden": [64, 32], "dropout": 0.0}),
    "flags": (flags, "mlp", {}),
    "images": (images, "cnn", {}),
    "tokens": (tokens, "transformer", SMALL),
    "text": (text, "transformer", SMALL),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """Each network is trained once."""
    done = {}

    def get(name):
        if name not in done:
            make, architecture, options = MADE[name]
            examples = make(digits) if make is images else make()
            done[name] = train(examples, architecture, options, tmp_path_factory.mktemp(name))
        return done[name]

    return get


def config(variant, limit=None):
    return ModelConfig(architecture="mlp", variant=variant, max_accuracy_loss=limit)


def ask(folder, rows):
    session = onnxruntime.InferenceSession(
        folder / "version" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


@pytest.mark.parametrize("variant", ["fp16", "int8"])
@pytest.mark.parametrize("name", MADE)
def test_every_architecture_has_both_variants(trained, tmp_path, name, variant):
    made = trained(name)
    # A regression as good as this one loses some hundredths of its small error to INT8.
    proven = prove(made, config(variant, 0.1), tmp_path)
    assert proven["parity"]["max_abs_difference"] <= proven["parity"]["tolerance"]
    report = proven["variant"]
    assert report["kind"] == variant
    assert report["rows"] == len(made.examples.validation.inputs)
    assert report["bytes"] < report["fp32_bytes"]
    assert report["accuracy_loss"] <= report["max_accuracy_loss"] == 0.1

    rows, wanted = load_probe(tmp_path / "probe.npz")
    words = made.examples.words
    if words and words.tokenizer:
        rows = words.texts[1][: len(rows)]
    np.testing.assert_allclose(ask(tmp_path, rows), wanted, rtol=0, atol=report["tolerance"])
    assert np.abs(ask(tmp_path, rows[:1]) - wanted[:1]).max() <= report["tolerance"] / 10

    # The numbers are those of the file, against torch's.
    everything = words.texts[1] if words and words.tokenizer else made.examples.validation.inputs
    found = ask(tmp_path, everything)
    torchs = torch.cat(list(answers(made.network, made.examples.validation.inputs))).numpy()
    assert report["max_abs_difference"] == pytest.approx(np.abs(found - torchs).max(), rel=1e-3)
    targets = torch.from_numpy(made.examples.validation.targets)
    metrics = judge(made.examples.task, torch.from_numpy(found), targets)
    assert report["metrics"] == pytest.approx(metrics, rel=1e-3)
    assert report["accuracy_loss"] == pytest.approx(
        lost(made.examples.task, made.metrics, metrics), abs=1e-4
    )
    assert ("class_agreement" in report) == (name != "values")


def test_the_variant_computes_in_its_own_numbers(trained, tmp_path):
    """And gets and gives what the float32 model does, under the same names."""
    kinds = {}
    for variant in ("fp32", "fp16", "int8"):
        folder = tmp_path / variant
        folder.mkdir()
        proven = prove(trained("images"), config(variant), folder)
        assert ("variant" in proven) == (variant != "fp32")
        model = onnx.load(folder / "version" / "model.onnx")
        assert sorted(path.name for path in (folder / "version").iterdir()) == [
            "model.onnx",
            "weights.safetensors",
        ]
        assert model.ir_version == 10
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
        assert not model.metadata_props
        session = onnxruntime.InferenceSession(folder / "version" / "model.onnx")
        ends = (*session.get_inputs(), *session.get_outputs())
        kinds[variant] = (
            [(end.name, end.type, end.shape) for end in ends],
            {tensor.data_type for tensor in model.graph.initializer},
        )
    assert kinds["fp32"][0] == kinds["fp16"][0] == kinds["int8"][0]
    assert kinds["fp32"][0] == [
        ("image", "tensor(float)", ["batch", 8, 8]),
        ("probabilities", "tensor(float)", ["batch", 10]),
    ]
    assert onnx.TensorProto.FLOAT16 in kinds["fp16"][1]
    assert onnx.TensorProto.INT8 in kinds["int8"][1]


def test_a_neighbour_in_the_batch_changes_no_answer_of_int8(trained, tmp_path):
    made = trained("images")
    prove(made, config("int8", 0.1), tmp_path)
    row = made.examples.validation.inputs[:1]
    alone, beside = ask(tmp_path, row), ask(tmp_path, np.concatenate([row, row * 1e6]))[:1]
    np.testing.assert_allclose(beside, alone, atol=1e-5)


# ---- refused ----------------------------------------------------------------------------


def test_a_variant_that_loses_too_much_is_refused_with_both_numbers(trained, tmp_path):
    made = trained("values")
    with pytest.raises(ExportError) as caught:
        prove(made, config("int8", 0.0), tmp_path)
    told = str(caught.value)
    assert f"where the trained network has {made.metrics['rmse']:.6g}: it loses 0.0" in told
    assert "more than model_config.max_accuracy_loss, 0; nothing was published" in told
    assert told.endswith('use variant "fp16" or "fp32"')
    assert not (tmp_path / "probe.npz").exists()


def test_the_loss_is_measured_not_hoped_for(trained, tmp_path, monkeypatch):
    """Weights of two bits: the answers are those of a much worse network."""
    real = variants._halve

    def coarse(source, target):
        model = onnx.load(source)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim > 1 and values.dtype == np.float32:
                step = np.abs(values).max()
                kept = np.round(values / step).astype(np.float32) * step
                tensor.CopyFrom(onnx.numpy_helper.from_array(kept, tensor.name))
        onnx.save(model, source)
        real(source, target)

    monkeypatch.setattr(variants, "_halve", coarse)
    with pytest.raises(
        ExportError, match=r"the fp16 variant has accuracy .* use variant \"fp32\"$"
    ):
        prove(trained("images"), config("fp16"), tmp_path)


def test_answers_that_are_no_numbers_are_refused(trained, tmp_path, monkeypatch):
    """As a processor may compute halves in float32, none of ours overflows here for certain."""
    made = trained("table")
    real = proof._ask

    def overflow(path, rows):
        found = real(path, rows)
        found[:3, 1] = np.nan
        return found

    monkeypatch.setattr(proof, "_ask", overflow)
    with pytest.raises(ExportError, match=r"answers 3 of 80 validation rows with NaN or infinity"):
        prove(made, config("fp16"), tmp_path)


def test_a_single_layer_has_nothing_to_be_int8(tmp_path):
    examples = table()
    network = Network(torch.nn.Linear(3, 3), examples.train.inputs, None).eval()
    made = Trained(network, examples, signature_of(examples, 64), {"accuracy": 0.0})
    with pytest.raises(ExportError, match="there is nothing to make INT8 of"):
        prove(made, config("int8"), tmp_path)


def test_too_large_networks_are_refused_before_they_are_trained(monkeypatch):
    network = Network(torch.nn.Linear(3, 3), np.zeros((4, 3), np.float32), None)
    monkeypatch.setattr(variants, "ONE_FILE_BYTES", 10)
    variants.check_variant(network, "fp32")
    with pytest.raises(InvalidTrainingRequestError, match=r"model_config.variant 'int8'"):
        variants.check_variant(network, "int8")


def test_the_limit_is_of_variants():
    assert config("int8").accuracy_loss_limit == 0.01
    assert config("fp16", 0.0).accuracy_loss_limit == 0.0
    for model in ({"max_accuracy_loss": 0.1}, {"variant": "fp16", "max_accuracy_loss": 1.5}):
        with pytest.raises(ValidationError, match="max_accuracy_loss"):
            ModelConfig(architecture="mlp", **model)
    with pytest.raises(ValidationError, match=r"fp32.*fp16.*int8"):
        ModelConfig(architecture="mlp", variant="int4")


@pytest.mark.parametrize(
    ("task", "before", "after", "wanted"),
    [
        ("classification", {"accuracy": 0.9}, {"accuracy": 0.7}, 0.2),
        ("classification", {"accuracy": 0.9}, {"accuracy": 1.0}, -0.1),
        ("multi-label", {"f1": 0.5, "accuracy": 0.9}, {"f1": 0.4, "accuracy": 1.0}, 0.1),
        ("regression", {"rmse": 20.0}, {"rmse": 21.0}, 0.05),
        ("regression", {"rmse": 0.0}, {"rmse": 0.0}, 0.0),
        ("regression", {"rmse": 0.0}, {"rmse": 1e-9}, np.inf),
    ],
)
def test_what_a_loss_is(task, before, after, wanted):
    assert lost(task, before, after) == pytest.approx(wanted)
