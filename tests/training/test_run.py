"""From trained files to a live model: nothing goes live unproven, nothing twice."""

import asyncio
import errno
import re
import shutil

import pytest

from bridge.errors import (
    CheckpointError,
    ExportError,
    Fate,
    InferenceTimeoutError,
    ModelLoadError,
    ModelUnavailableError,
    PublishError,
    RepositoryWriteError,
    RestrictedError,
    TrainingFailedError,
    TritonBusyError,
    TritonUnavailableError,
)
from bridge.repository import ModelRepository, restorable, store, withdraw
from bridge.training import golive
from bridge.training.failures import told
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn


@pytest.fixture
def repository(settings):
    return ModelRepository(settings.model_repository)


pytestmark = pytest.mark.usefixtures("trainings")


async def start(settings, triton, task_id="t", progress=None, model_id="few", **hyperparameters):
    model = {"architecture": "cnn", "model_id": model_id}
    request = parse_request("few", model, hyperparameters, settings)

    async def on_progress(record):
        if progress is not None:
            progress.append(record)

    return await Training(request, task_id, settings, triton).go_on(Turn(), on_progress)


async def ignore(_record):
    pass


def nothing_left(settings):
    return (
        [path.name for path in settings.checkpoint_root.iterdir()] in ([], ["jobs"])
        and list(settings.model_repository.glob("*.candidate-*")) == []
        and list(settings.model_repository.glob(".staging-*")) == []
    )


async def test_a_trained_model_goes_live(settings, fake_triton, repository, trained):
    progress = []
    result = await start(settings, fake_triton, progress=progress)
    assert result["model_name"] == "few"
    assert result["model_version"] == "1"
    assert result["metrics"] == trained.outcome.result["metrics"]
    assert result["parity"]["triton_max_abs_difference"] < 1e-5
    assert result["parity"]["triton_tolerance"] == 1e-4
    assert result["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}]
    assert result["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert result["labels"] == [str(digit) for digit in range(10)]
    assert result["columns"] == ["image"]
    assert result["dataset_id"] == "few"
    assert result["dataset_hash"] == trained.outcome.result["dataset_hash"]
    assert result["duration_s"] > 0
    assert list(result["timings"]) == ["train_s", "export_s", "compare_s", "try_s"]
    assert result["timings"]["train_s"] == result["duration_s"]
    assert progress[-1] == {"stage": "publishing"}
    # Asked under the candidate's name first, twice (one row, several), then under its own.
    assert fake_triton.calls == [
        ("load", "few", True),
        ("infer", "few", True),
        ("infer", "few", True),
        ("unload", "few", True),
        ("load", "few", False),
        ("infer", "few", False),
    ]
    assert list(fake_triton.served) == ["few"]
    assert nothing_left(settings)
    card = repository.card("few", 1)
    assert card["task_id"] == "t"
    assert card["dataset_hash"] == trained.outcome.result["dataset_hash"]
    assert card["model"]["architecture"] == "cnn"
    # What the training process says that it used: it chose the batch size.
    assert card["hyperparameters"] == trained.outcome.result["hyperparameters"]
    assert card["hyperparameters"]["batch_size"] == 12


async def test_a_second_task_makes_a_second_version(settings, fake_triton, repository):
    await start(settings, fake_triton, "one")
    assert (await start(settings, fake_triton, "two"))["model_version"] == "2"
    assert repository.versions("few") == [1, 2]
    assert fake_triton.served["few"][0] == "2"


async def test_a_redelivered_task_gets_its_recorded_result(
    settings, fake_triton, repository, trainings
):
    first = await start(settings, fake_triton)
    # The worker died before Triton heard of it, and the task came again.
    fake_triton.served.clear()
    assert await start(settings, fake_triton) == first
    assert trainings == ["few"]
    assert repository.versions("few") == [1]
    assert fake_triton.served["few"][0] == "1"


async def test_a_late_redelivery_leaves_the_newer_version_alone(settings, fake_triton, repository):
    first = await start(settings, fake_triton, "one")
    await start(settings, fake_triton, "two")
    fake_triton.calls.clear()
    assert await start(settings, fake_triton, "one") == first
    assert fake_triton.calls == []
    assert repository.versions("few") == [1, 2]


async def test_a_model_that_triton_cannot_load_is_never_published(
    settings, fake_triton, repository
):
    await start(settings, fake_triton, "good")
    fake_triton.refuses.add((".candidate-", 1))
    with pytest.raises(
        PublishError, match=r"refused the new version of model 'few'.*not published"
    ):
        await start(settings, fake_triton, "bad")
    assert repository.versions("few") == [1]
    assert fake_triton.served["few"][0] == "1"
    assert nothing_left(settings)


async def test_a_model_that_answers_otherwise_is_never_published(settings, fake_triton, repository):
    fake_triton.skew = 0.01
    with pytest.raises(PublishError, match=r"differ from those in training by 0\.01"):
        await start(settings, fake_triton)
    assert repository.models() == []
    assert fake_triton.served == {}
    assert nothing_left(settings)


async def test_a_gpu_may_round_float32_otherwise(settings, fake_triton, repository):
    fake_triton.gpu, fake_triton.skew = True, 0.005
    parity = (await start(settings, fake_triton))["parity"]
    assert parity["tolerance"] == 1e-4
    assert parity["triton_tolerance"] == 1e-2
    assert parity["triton_max_abs_difference"] == pytest.approx(0.005, abs=1e-4)
    fake_triton.skew = 0.02
    with pytest.raises(PublishError, match=r"by 0\.02.*more than 0\.01"):
        await start(settings, fake_triton, "second")
    assert repository.versions("few") == [1]


async def test_a_published_version_that_will_not_load_is_withdrawn(
    settings, fake_triton, repository
):
    await start(settings, fake_triton, "good")
    fake_triton.refuses.add(("few", 2))
    with pytest.raises(PublishError, match="the version before serves on"):
        await start(settings, fake_triton, "bad")
    assert repository.versions("few") == [1]
    assert repository.find_version_by_task("few", "bad") is None
    assert fake_triton.served["few"][0] == "1"
    # Its number is not used again.
    fake_triton.refuses.clear()
    assert (await start(settings, fake_triton, "bad"))["model_version"] == "3"


async def test_who_may_load_no_model_is_told_before_it_is_trained(settings, fake_triton, trainings):
    fake_triton.locked = True
    with pytest.raises(RestrictedError, match="TRITON_ADMIN_KEY"):
        await start(settings, fake_triton)
    assert trainings == []


async def test_a_key_that_was_changed_meanwhile_is_waited_for(
    settings, fake_triton, repository, trainings
):
    async def locked():
        fake_triton.locked = True

    request = parse_request("few", {"architecture": "cnn"}, {}, settings)
    training = Training(request, "t", settings, fake_triton)
    with pytest.raises(TritonUnavailableError, match="TRITON_ADMIN_KEY"):
        await training.go_on(Turn(confirm=locked), ignore)
    assert repository.models() == []
    assert trainings == ["few"]


@pytest.mark.parametrize("kind", [TritonBusyError, ModelUnavailableError, InferenceTimeoutError])
async def test_a_version_is_not_taken_back_because_triton_is_busy(
    settings, fake_triton, repository, trainings, kind
):
    fake_triton.fails[False] = kind("too much is asked of it")
    with pytest.raises(TritonUnavailableError, match="too much"):
        await start(settings, fake_triton)
    assert repository.versions("few") == [1]
    assert (await start(settings, fake_triton))["model_version"] == "1"
    assert trainings == ["few"]


async def test_a_version_that_a_person_takes_out_while_triton_loads_it_was_published(
    settings, fake_triton, repository, monkeypatch
):
    """The training failed, and restoring the version had a failed one serve."""
    await start(settings, fake_triton, "one")
    load = fake_triton.load

    async def too_late(name):
        if name == "few":
            withdraw(repository, name, 2, keep=True)
            raise ModelLoadError("File doesn't exist")
        await load(name)

    monkeypatch.setattr(fake_triton, "load", too_late)
    result = await start(settings, fake_triton, "two")
    assert result["model_version"] == "2"
    assert repository.versions("few") == [1]
    assert restorable(repository, "few") == [2]


async def test_a_version_that_a_person_took_out_does_not_come_back_with_its_message(
    settings, fake_triton, repository, trainings
):
    """Its worker died before it told of it; its message came again, and it was published anew."""
    await start(settings, fake_triton, "one")
    await start(settings, fake_triton, "two")
    withdraw(repository, "few", 2, keep=True)
    assert (await start(settings, fake_triton, "two"))["model_version"] == "2"
    assert repository.versions("few") == [1]
    assert trainings == ["few"] * 2


async def test_who_lowered_the_batch_size_of_a_model_may_train_it_again(
    settings, fake_triton, repository
):
    await start(settings, fake_triton, "one")
    config = repository.root / "few" / "config.pbtxt"
    config.write_text(re.sub(r"max_batch_size: \d+", "max_batch_size: 2", config.read_text()))
    assert (await start(settings, fake_triton, "two"))["model_version"] == "2"


async def test_a_full_repository_is_worth_another_try(
    settings, fake_triton, repository, monkeypatch
):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "sync_tree", full)
    with pytest.raises(RepositoryWriteError, match="No space left") as caught:
        await start(settings, fake_triton)
    assert caught.value.fate is Fate.RETRY
    assert repository.models() == []
    assert nothing_left(settings)


async def test_a_repository_that_cannot_be_written_is_told_before_anything_is_trained(
    settings, fake_triton, trainings
):
    (settings.model_repository.parent / "file").touch()
    nowhere = settings.model_copy(
        update={"model_repository": settings.model_repository.parent / "file" / "models"}
    )
    with pytest.raises(RepositoryWriteError, match=r"cannot write to .*Not a directory"):
        await start(nowhere, fake_triton)
    assert trainings == []


async def test_a_triton_that_has_forgotten_the_candidate_is_worth_another_try(
    settings, fake_triton, repository, monkeypatch
):
    async def away(*_arguments, **_named):
        raise ModelUnavailableError("it was restarted meanwhile")

    with monkeypatch.context() as patched:
        patched.setattr(fake_triton, "infer", away)
        with pytest.raises(ModelUnavailableError):
            await start(settings, fake_triton)
    assert repository.models() == []
    assert (await start(settings, fake_triton))["model_version"] == "1"


def test_a_full_disk_is_found_behind_other_errors():
    error = ExportError("cannot export")
    assert told(error)[0] is ExportError
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert told(error) == (CheckpointError, "cannot export")
    assert told(OSError(errno.EACCES, "no"))[0] is TrainingFailedError


async def test_a_version_that_is_followed_at_once_stays(
    settings, fake_triton, repository, monkeypatch
):
    """Another worker publishes the next one before Triton has answered with this one."""
    load = fake_triton.load

    async def slowly(name):
        if name == "few" and repository.versions("few") == [1]:
            shutil.copytree(repository.root / "few" / "1", repository.root / "few" / "2")
        await load(name)

    monkeypatch.setattr(fake_triton, "load", slowly)
    assert (await start(settings, fake_triton))["model_version"] == "1"
    assert repository.versions("few") == [1, 2]
    assert fake_triton.served["few"][0] == "2"


async def test_an_outage_before_publishing_is_worth_another_try(settings, fake_triton, repository):
    fake_triton.down = True
    with pytest.raises(TritonUnavailableError):
        await start(settings, fake_triton)
    assert repository.models() == []
    assert nothing_left(settings)
    fake_triton.down = False
    assert (await start(settings, fake_triton))["model_version"] == "1"


async def test_an_outage_after_publishing_keeps_the_version(
    settings, fake_triton, repository, trainings, monkeypatch
):
    load = fake_triton.load

    async def fail(name):
        if ".candidate-" not in name:
            raise TritonUnavailableError("gone")
        await load(name)

    monkeypatch.setattr(fake_triton, "load", fail)
    with pytest.raises(TritonUnavailableError):
        await start(settings, fake_triton)
    assert repository.versions("few") == [1]
    monkeypatch.setattr(fake_triton, "load", load)
    assert (await start(settings, fake_triton))["model_version"] == "1"
    assert trainings == ["few"]
    assert fake_triton.served["few"][0] == "1"


@pytest.mark.parametrize(
    ("ours", "others", "shown"),
    [
        ('"image"', '"picture"', r"takes and gives .*picture.*image.*another model_id"),
        ('"target": "target"', '"target": "price"', "predicts 'price', and .* have 'target'"),
    ],
)
async def test_another_signature_or_target_is_refused_before_training(
    settings, fake_triton, repository, ours, others, shown
):
    await start(settings, fake_triton, model_id="shared")
    other = repository.root / "shared" / "1" / "card.json"
    card = other.read_text()
    assert ours in card
    other.write_text(card.replace(ours, others))
    with pytest.raises(PublishError, match=shown):
        await start(settings, fake_triton, "second", model_id="shared")
    assert repository.versions("shared") == [1]
    assert nothing_left(settings)


async def test_leftovers_of_a_crash_are_removed_from_triton_too(
    settings, fake_triton, repository, trained, monkeypatch
):
    monkeypatch.setattr(golive, "_LEFTOVER_S", -1)
    files = trained.folder / "version"
    crashed = repository.lay_candidate("few", files, trained.outcome.plan.signature)
    await fake_triton.load(crashed.name)
    await start(settings, fake_triton)
    assert list(fake_triton.served) == ["few"]
    assert nothing_left(settings)


@pytest.mark.parametrize("where", ["laying", "trying"])
async def test_cancelling_while_publishing_leaves_no_candidate(
    settings, fake_triton, repository, monkeypatch, where
):
    reached = asyncio.Event()
    lay, loop = ModelRepository.lay_candidate, asyncio.get_running_loop()

    def slow_lay(*args):
        if where == "laying":
            loop.call_soon_threadsafe(reached.set)
        return lay(*args)

    async def slow_infer(*_, **__):
        reached.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(ModelRepository, "lay_candidate", slow_lay)
    monkeypatch.setattr(fake_triton, "infer", slow_infer)
    task = asyncio.create_task(start(settings, fake_triton))
    await asyncio.wait_for(reached.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert repository.models() == []
    assert fake_triton.served == {}
    assert nothing_left(settings)
