"""`mlbridge card`, and the `card.md` that a version has beside its `card.json`."""

import json

import pytest
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.errors import UnknownModelError
from bridge.repository import ModelRepository, Signature
from bridge.tensors import TensorSpec

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 8, 8)),),
    (TensorSpec("probabilities", "FP32", (-1, 2)),),
    64,
    ("cat", "a|b <i>"),
)
CARD = {
    "task_id": "5f0c",
    "task": "classification",
    "dataset_id": "pets",
    "dataset_hash": "sha256:abc",
    "rows": {"train": 240, "validation": 60},
    "columns": ["image"],
    "target": "label",
    "hyperparameters": {"epochs": 15, "learning_rate": 0.002},
    "model": {"architecture": "cnn", "variant": "int8", "options": {"channels": [8]}},
    "metrics": {"accuracy": 0.97, "loss": 0.1, "epochs": 15},
    "parity": {"max_abs_difference": 1.2345678e-7, "class_agreement": 1.0},
    "variant": {
        "kind": "int8",
        "metrics": {"accuracy": 0.965, "loss": 0.11},
        "accuracy_loss": 0.005,
        "bytes": 33494,
        "fp32_bytes": 99799,
    },
    "libraries": {"torch": "2.13.0"},
    "published": "2026-01-01T00:00:00+00:00",
}


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


def publish(repository, card):
    files = repository.root.parent / "files"
    files.mkdir(exist_ok=True)
    (files / "model.onnx").write_bytes(b"weights")
    candidate = repository.lay_candidate("pets", files, SIGNATURE)
    version = repository.publish(candidate, card)
    repository.remove_candidate(candidate)
    return version


def run(repository, *arguments):
    return CliRunner().invoke(
        app, ["card", *arguments], env={"MODEL_REPOSITORY": str(repository.root)}
    )


def test_a_version_has_a_readable_card(repository):
    publish(repository, CARD)
    lines = (repository.root / "pets" / "1" / "card.md").read_text().splitlines()
    assert lines[0] == "# pets"
    assert "`cnn` for classification, as ONNX in INT8; made by task `5f0c`" in lines[2]
    for line in (
        "| dataset | pets |",
        "| hash | sha256:abc |",
        "| rows to validate on | 60 |",
        '| inputs from | \\["image"\\] |',
        "| learning\\_rate | 0.002 |",
        '| model\\_config.options | {"channels": \\[8\\]} |',
        "| metric | trained, FP32 | served, INT8 |",
        "| accuracy | 0.97 | 0.965 |",
        "| max\\_abs\\_difference | 1.23457e-07 |",
        "| fp32\\_bytes | 99799 |",
        "| torch | 2.13.0 |",
        "| inputs | image | FP32 | \\[-1, 8, 8\\] |",
        "Labels, in the order of the output: `cat`, `a|b <i>`.",
        '    result = await client.infer("pets", {"image": np.zeros((1, 8, 8), "float32")})',
    ):
        assert line in lines, line


def test_what_a_card_lacks_is_left_out(repository):
    publish(repository, {"task_id": "t"})
    text = (repository.root / "pets" / "1" / "card.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## How to call it"]
    assert "None" not in text


def test_names_mean_nothing_to_markdown(repository):
    publish(repository, {**CARD, "target": "a|b\n# <script>", "columns": ["x"] * 60})
    text = (repository.root / "pets" / "1" / "card.md").read_text()
    assert "| target | a\\|b \\# \\<script\\> |" in text
    assert ", and 10 more in card.json |" in text


def test_the_command_shows_the_newest_or_the_one_asked_for(repository):
    publish(repository, CARD)
    publish(repository, {**CARD, "task_id": "second", "dataset_id": "more-pets"})
    assert "| dataset | more-pets |" in run(repository, "pets").stdout
    first = run(repository, "pets", "--version", "1")
    assert first.stdout == (repository.root / "pets" / "1" / "card.md").read_text()
    shown = json.loads(run(repository, "pets", "--json").stdout)
    assert shown == repository.card("pets", 2)


def test_what_has_no_card_is_told(repository):
    def problem(*arguments):
        error = run(repository, *arguments).exception
        assert isinstance(error, UnknownModelError)
        return str(error)

    assert "there is no model 'pets' in" in problem("pets")
    assert "MODEL_REPOSITORY must be the one that Triton reads" in problem("pets")
    publish(repository, CARD)
    assert "has no version 7" in problem("pets", "--version", "7")
    path = repository.root / "pets" / "1" / "card.json"
    path.write_text('{"signature": {"inputs": 3}}')
    assert "was not written by a training" in problem("pets")
    path.unlink()
    assert "has no card: it was put into the repository by hand" in problem("pets")
