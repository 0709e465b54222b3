"""Versions appear whole, numbers never clash, signatures never change."""

import contextlib
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.errors import InvalidNameError, PublishError, RepositoryWriteError, UnknownModelError
from bridge.repository import (
    ModelRepository,
    Signature,
    check_model_id,
    render_config,
    restorable,
    restore,
    withdraw,
)
from bridge.repository.signature import nameless
from bridge.tensors import TensorSpec


def signature(width=4, *, max_batch_size=8, labels=("no", "yes")):
    return Signature(
        (TensorSpec("x", "FP32", (-1, width)),),
        (TensorSpec("probabilities", "FP32", (-1, 2)),),
        max_batch_size,
        labels,
    )


@pytest.fixture
def repository(tmp_path):
    return ModelRepository(tmp_path / "models")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights")
    return folder


def publish(repository, files, model="m", task="t", **kwargs):
    candidate = repository.lay_candidate(model, files, signature(**kwargs))
    return repository.publish(candidate, {"task_id": task})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_told_in_one_line(tmp_path, files):
    """There was a list of all files, each with both of its paths."""
    (files / "weights.safetensors").write_bytes(bytes(100_000))
    (files / "model.onnx").write_bytes(bytes(100_000))
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container mounts nothing")
    try:
        repository = ModelRepository(disk)
        with pytest.raises(RepositoryWriteError, match="No space left on device") as raised:
            repository.lay_candidate("m", files, signature())
        assert "(" not in str(raised.value)
        assert folders(repository) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def folders(repository):
    return sorted(entry.name for entry in repository.root.iterdir() if entry.is_dir())


def test_config_names_no_model_and_leaves_the_batch_to_triton():
    assert render_config(signature()) == (
        'backend: "onnxruntime"\n'
        "max_batch_size: 8\n"
        'input {\n  name: "x"\n  data_type: TYPE_FP32\n  dims: [ 4 ]\n}\n'
        'output {\n  name: "probabilities"\n  data_type: TYPE_FP32\n  dims: [ 2 ]\n'
        '  label_filename: "labels.txt"\n}\n'
        "instance_group [ { count: 1 } ]\n"
        "dynamic_batching { }\n"
    )


def test_config_without_batch_dimension():
    text = Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (3, 2)),), 0)
    config = render_config(text)
    assert "TYPE_STRING\n  dims: [ -1 ]" in config
    assert "dims: [ 3, 2 ]" in config
    assert "dynamic_batching" not in config
    assert "labels" not in config


def test_a_tensors_name_cannot_end_its_quotes():
    evil = Signature((TensorSpec('x" }', "FP32", (-1, 1)),), (), 1)
    with pytest.raises(InvalidNameError, match="tensor"):
        render_config(evil)


def test_what_is_no_model_is_passed_over(repository, files):
    publish(repository, files)
    for stray in ("lost+found", ".cache", "m.candidate-0123456789ab"):
        (repository.root / stray / "1").mkdir(parents=True)
    (repository.root / "no_version").mkdir()
    (repository.root / "file").touch()
    assert repository.models() == ["m"]


def test_first_version_appears_with_its_model(repository, files):
    assert repository.models() == []
    assert publish(repository, files) == 1
    assert repository.models() == ["m"]
    assert folders(repository) == ["m"]
    home = repository.root / "m"
    assert (home / "config.pbtxt").read_text() == render_config(signature())
    assert (home / "labels.txt").read_text() == "no\nyes\n"
    assert (home / "1" / "model.onnx").read_bytes() == b"weights"
    card = repository.card("m", 1)
    assert card["task_id"] == "t"
    assert Signature.from_json(card["signature"]) == signature()


def test_next_version_leaves_the_former_as_it_was(repository, files):
    publish(repository, files, task="first")
    before = (repository.root / "m" / "1" / "card.json").read_bytes()
    (files / "model.onnx").write_bytes(b"better weights")
    candidate = repository.lay_candidate("m", files, signature())
    assert repository.publish(candidate, {"task_id": "second"}) == 2
    assert repository.versions("m") == [1, 2]
    assert (repository.root / "m" / "1" / "card.json").read_bytes() == before
    assert (repository.root / "m" / "1" / "model.onnx").read_bytes() == b"weights"
    repository.remove_candidate(candidate)
    repository.remove_candidate(candidate)  # twice does no harm
    assert folders(repository) == ["m"]


def test_candidate_is_a_whole_model_that_nobody_calls(repository, files):
    candidate = repository.lay_candidate("m", files, signature())
    assert repository.models() == []
    assert folders(repository) == [candidate.name]
    laid = repository.root / candidate.name
    assert sorted(path.name for path in laid.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    assert [path.name for path in (laid / "1").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "lock does not reach"])
@pytest.mark.parametrize("existing", [True, False], ids=["known model", "new model"])
def test_racing_publishers_get_numbers_of_their_own(
    repository, files, monkeypatch, locked, existing
):
    if not locked:
        monkeypatch.setattr(ModelRepository, "_lock", lambda _: contextlib.nullcontext())
    if existing:
        publish(repository, files)
    candidates = [repository.lay_candidate("m", files, signature()) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        numbers = list(
            pool.map(
                lambda pair: repository.publish(pair[1], {"task_id": f"task-{pair[0]}"}),
                enumerate(candidates),
            )
        )
    assert sorted(numbers) == list(range(1 + existing, 17 + existing))
    for index, number in enumerate(numbers):
        assert repository.find_version_by_task("m", f"task-{index}") == number


def test_overlapping_deliveries_of_one_task_publish_once(repository, files):
    candidates = [repository.lay_candidate("m", files, signature()) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        numbers = set(pool.map(lambda c: repository.publish(c, {"task_id": "t"}), candidates))
    assert numbers == {1}
    assert repository.versions("m") == [1]


def test_crash_between_candidate_and_publish_leaves_nothing_live(repository, files):
    publish(repository, files)
    crashed = repository.lay_candidate("m", files, signature())
    assert repository.versions("m") == [1]
    assert repository.clean_candidates(3600) == []
    assert repository.clean_candidates(0) == [crashed.name]
    assert folders(repository) == ["m"]
    with pytest.raises(PublishError, match="cannot publish"):
        repository.publish(crashed, {"task_id": "crashed"})
    assert publish(repository, files, task="next") == 2


def test_crash_while_staging_is_cleaned_too(repository, files):
    publish(repository, files)
    staging = repository.root / ".staging-0123456789ab"
    (staging / "1").mkdir(parents=True)
    old = time.time() - 7200
    os.utime(staging, (old, old))
    assert repository.models() == ["m"]
    assert repository.clean_candidates(3600) == []  # Triton never knew it: no name to unload
    assert not staging.exists()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"width": 5}, r"x FP32\[-1, 5\]"),
        ({"max_batch_size": 4}, "max_batch_size 4"),
        ({"labels": ("yes", "no")}, r"labels \['yes', 'no'\]"),
    ],
)
def test_another_signature_is_refused_with_both_and_the_remedy(repository, files, change, shown):
    publish(repository, files)
    with pytest.raises(PublishError, match=shown) as refusal:
        repository.lay_candidate("m", files, signature(**change))
    assert "x FP32[-1, 4]" in str(refusal.value)
    assert "choose another model_id" in str(refusal.value)
    assert folders(repository) == ["m"]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"columns": ["b", "a"]}, r"takes the columns \['a', 'b'\] in this order, .*\['b', 'a'\]"),
        ({"columns": ["a", "c"]}, r"would have \['a', 'c'\]; .*model_config.inputs, or choose"),
        ({"target": "other"}, "predicts 'y', and the new version would have 'other'"),
    ],
)
def test_other_columns_or_another_order_are_refused(repository, files, change, shown):
    """Of one input their signatures say the same, and callers would get wrong answers."""
    made_of = {"columns": ["a", "b"], "target": "y"}
    publish(repository, files, task="older")  # whose card does not tell
    repository.check_signature("m", signature(), made_of | change)
    candidates = [repository.lay_candidate("m", files, signature()) for _ in range(2)]
    repository.publish(candidates[0], {"task_id": "first", **made_of})
    withdraw(repository, "m", 2, keep=True)
    repository.publish(candidates[1], {"task_id": "second", **made_of, **change})
    with pytest.raises(PublishError, match="callers of 'm' rely on the former"):
        restore(repository, "m", 2)
    withdraw(repository, "m", 3)
    restore(repository, "m", 2)
    with pytest.raises(PublishError, match=shown):
        repository.check_signature("m", signature(), made_of | change)
    repository.check_signature("m", signature(), made_of)
    late = repository.lay_candidate("m", files, signature())
    with pytest.raises(PublishError, match=shown):
        repository.publish(late, {"task_id": "late", **made_of, **change})
    assert repository.publish(late, {"task_id": "late", **made_of}) == 4


def test_signature_is_checked_again_at_the_last_moment(repository, files):
    slow = repository.lay_candidate("m", files, signature(width=5))
    publish(repository, files)
    with pytest.raises(PublishError, match="another model_id"):
        repository.publish(slow, {"task_id": "slow"})
    assert repository.versions("m") == [1]
    assert (repository.root / "m" / "config.pbtxt").read_text() == render_config(signature())


@pytest.mark.parametrize("card", [None, "[]", "{", '{"signature": {"inputs": 3}}'])
def test_a_model_put_there_by_hand_is_left_alone(repository, files, card):
    version = repository.root / "m" / "7"
    version.mkdir(parents=True)
    if card is not None:
        (version / "card.json").write_text(card)
    with pytest.raises(PublishError, match="by hand"):
        repository.lay_candidate("m", files, signature())
    assert repository.find_version_by_task("m", "t") is None


def test_withdrawn_version_is_gone_and_its_number_with_it(repository, files):
    publish(repository, files)
    assert publish(repository, files, task="bad") == 2
    withdraw(repository, "m", 2)
    assert repository.versions("m") == [1]
    assert repository.find_version_by_task("m", "bad") is None
    grave = repository.root / "m" / ".withdrawn-2"
    assert [path.name for path in grave.iterdir()] == ["card.json"]
    assert repository.next_version("m") == 3
    assert publish(repository, files, task="next") == 3
    with pytest.raises(PublishError, match="cannot withdraw version 9"):
        withdraw(repository, "m", 9)


def test_a_version_that_was_kept_comes_back_as_it_was(repository, files):
    for task in ("first", "second", "third"):
        publish(repository, files, task=task)
    home = repository.root / "m"
    before = {path.name: path.read_bytes() for path in (home / "3").iterdir()}
    withdraw(repository, "m", 3, keep=True)
    withdraw(repository, "m", 2)
    assert repository.versions("m") == [1]
    assert restorable(repository, "m") == [3]
    assert publish(repository, files, task="next") == 4
    with pytest.raises(UnknownModelError, match=r"no version 2 .* withdrawn and kept: 3"):
        restore(repository, "m", 2)
    restore(repository, "m", 3)
    assert repository.versions("m") == [1, 3, 4]
    assert {path.name: path.read_bytes() for path in (home / "3").iterdir()} == before
    with pytest.raises(UnknownModelError, match="kept: none"):
        restore(repository, "m", 3)


@pytest.mark.parametrize("name", ["model.py", "model.plan", "model.savedmodel/saved_model.pb"])
def test_a_version_for_another_backend_comes_back_too(repository, name):
    """A person laid it."""
    file = repository.root / "m" / "1" / name
    file.parent.mkdir(parents=True)
    file.write_text("a model")
    withdraw(repository, "m", 1, keep=True)
    assert restorable(repository, "m") == [1]
    restore(repository, "m", 1)
    assert file.read_text() == "a model"
    withdraw(repository, "m", 1)
    assert restorable(repository, "m") == []


def test_a_version_of_another_signature_does_not_come_back(repository, files):
    publish(repository, files)
    withdraw(repository, "m", 1, keep=True)
    assert publish(repository, files, width=5) == 2
    with pytest.raises(PublishError, match=r"signature|takes"):
        restore(repository, "m", 1)
    assert repository.versions("m") == [2]


def test_model_whose_only_version_was_withdrawn_can_come_back(repository, files):
    publish(repository, files)
    withdraw(repository, "m", 1)
    assert repository.models() == []
    assert publish(repository, files, width=5) == 2
    assert "dims: [ 5 ]" in (repository.root / "m" / "config.pbtxt").read_text()


EDITED = """# ours: two on the first GPU
name: "m"
backend: "onnxruntime"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }
instance_group [ { name: "first" count: 2 kind: KIND_GPU gpus: [ 0 ] } ]
optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }
dynamic_batching { max_queue_delay_microseconds: 500 }
"""


def test_what_the_operator_edited_stays_and_is_what_candidates_are_tried_with(repository, files):
    publish(repository, files)
    config = repository.root / "m" / "config.pbtxt"
    config.write_text(EDITED)
    candidate = repository.lay_candidate("m", files, signature())
    # Under its own name Triton would refuse a config that names the model.
    tried = (repository.root / candidate.name / "config.pbtxt").read_text()
    assert tried == EDITED.replace('name: "m"', "", 1)
    assert repository.publish(candidate, {"task_id": "second"}) == 2
    assert config.read_text() == EDITED
    assert publish(repository, files, task="third") == 3
    assert config.read_text() == EDITED


def test_an_edited_config_does_not_let_another_signature_in(repository, files):
    publish(repository, files)
    (repository.root / "m" / "config.pbtxt").write_text(EDITED.replace("[ 4 ]", "[ 5 ]"))
    with pytest.raises(PublishError, match="choose another model_id"):
        repository.lay_candidate("m", files, signature(width=5))
    assert repository.versions("m") == [1]


def test_a_config_that_the_operator_removed_is_written_anew(repository, files):
    publish(repository, files)
    config = repository.root / "m" / "config.pbtxt"
    config.unlink()
    assert publish(repository, files, task="next") == 2
    assert config.read_text() == render_config(signature())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('name: "m"\nbackend: "b"', '\nbackend: "b"'),
        ("name : 'm'; max_batch_size: 1", " max_batch_size: 1"),
        ('input { name: "x" } name: "m"', 'input { name: "x" } '),
        ('input [ { name: "x" }, { name: "y" } ]', 'input [ { name: "x" }, { name: "y" } ]'),
        ('# name: "m" {\nname: "m"', '# name: "m" {\n'),
        (r'p { key: "}\"" } name: "m"', r'p { key: "}\"" } '),
        ('default_model_filename: "name: 1"', 'default_model_filename: "name: 1"'),
        ('instance_group < name: "a" > name: "m"', 'instance_group < name: "a" > '),
    ],
)
def test_only_the_models_own_name_is_left_out(text, left):
    assert nameless(text) == left


def test_versions_are_numbers_only(repository, files):
    publish(repository, files)
    for name in ("0", "01", "x", ".hidden", "2.tmp"):
        (repository.root / "m" / name).mkdir()
    assert repository.versions("m") == [1]
    with pytest.raises(UnknownModelError, match="no version 5"):
        repository.card("m", 5)


def test_task_is_found_among_versions(repository, files):
    for task in ("a", "b", "c"):
        publish(repository, files, task=task)
    assert [repository.find_version_by_task("m", task) for task in "abcd"] == [1, 2, 3, None]
    assert repository.find_version_by_task("other", "a") is None


@pytest.mark.parametrize(
    "name", ["../m", "", ".m", "a/b", "m" * 101, "m.candidate-0123456789ab", 3, None]
)
def test_model_ids_that_cannot_be(repository, files, name):
    with pytest.raises(InvalidNameError, match="model_id"):
        check_model_id(name)
    with pytest.raises(InvalidNameError, match="model_id"):
        repository.lay_candidate(name, files, signature())


def test_a_repository_that_cannot_be_written(tmp_path, files):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PublishError, match="cannot write"):
        ModelRepository(tmp_path / "file").lay_candidate("m", files, signature())


def test_a_card_must_be_json(repository, files):
    candidate = repository.lay_candidate("m", files, signature())
    with pytest.raises(ValueError, match="JSON"):
        repository.publish(candidate, {"task_id": "t", "loss": float("nan")})
    assert repository.models() == []


def test_signature_survives_json():
    text = json.dumps(signature().to_json())
    assert Signature.from_json(json.loads(text)) == signature()
