"""The whole way on a real Triton: a dataset becomes a model that answers."""

import asyncio

import numpy as np
import pytest

from bridge.errors import ExportError, UnknownModelError
from bridge.settings import Settings
from bridge.tensors import Tensor
from bridge.training.datasets import DatasetStore
from bridge.training.golive import GoLive, PointOfNoReturn
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn
from bridge.triton_client import TritonClient


@pytest.fixture
async def client(triton):
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


@pytest.mark.usefixtures("trained")
async def test_the_defaults_make_a_good_model_of_digits(
    triton, client, dataset_root, digits, tmp_path, request
):
    settings = Settings(
        dataset_root=dataset_root,
        model_repository=triton.repository,
        checkpoint_root=tmp_path,
    )

    publishing = asyncio.Event()

    async def on_progress(progress):
        if progress.get("stage") == "publishing":
            publishing.set()

    async def run(task_id):
        model = {"architecture": "cnn", "model_id": "training-live"}
        asked = parse_request("digits", model, {}, settings)
        return await Training(asked, task_id, settings, client).go_on(Turn(), on_progress)

    async def ask(rows, version=""):
        reply = await client.infer(
            "training-live", {"image": Tensor.from_array(rows)}, version=version, timeout_s=30
        )
        return reply.model_version, reply.outputs["probabilities"].to_array()

    first = await run("first")
    assert first["model_version"] == "1"
    assert first["metrics"]["accuracy"] >= 0.98
    assert first["parity"]["triton_max_abs_difference"] <= first["parity"]["tolerance"]
    assert first["parity"]["triton_tolerance"] == 1e-4, "Triton did not say: on processors"
    images, classes = digits
    version, answers = await ask(images[:50])
    assert version == "1"
    assert (answers.argmax(1) == classes[:50]).mean() >= 0.96

    # While callers ask, a second version goes live: none is refused, each gets an answer.
    served = []

    publishing.clear()
    request.getfixturevalue("trainings")  # one real training here is enough

    async def hammer():
        await publishing.wait()  # not sooner: it takes the processor from the training
        while True:
            version, answers = await ask(images[:1])
            assert np.isfinite(answers).all()
            served.append(version)

    caller = asyncio.create_task(hammer())
    second = await run("second")
    await asyncio.sleep(0.2)
    assert not caller.done(), caller.exception()
    caller.cancel()
    assert second["model_version"] == "2"
    assert served == sorted(served)
    assert set(served) == {"1", "2"}

    index = {state.name: state.state for state in await client.index()}
    assert not any(".candidate-" in name for name in index)
    with pytest.raises(UnknownModelError):
        await ask(images[:1], version="1")


async def test_an_int8_version_follows_fp32_and_fp16_of_the_same_model(
    triton, client, dataset_root, digits, trained, tmp_path
):
    settings = Settings(
        dataset_root=dataset_root, model_repository=triton.repository, checkpoint_root=tmp_path
    )
    plain = {"architecture": "cnn", "model_id": "variants-live"}
    first = GoLive(parse_request("few", plain, {}, settings), "fp32", settings, client)
    result = await first.go_live(trained.outcome, trained.folder, 1, PointOfNoReturn())
    assert result["model_version"] == "1"
    assert "variant" not in result
    images, classes = digits
    inputs = {"image": Tensor.from_array(images[:50])}

    async def ignore(_):
        pass

    for number, variant in enumerate(("fp16", "int8"), 2):
        model = {**plain, "variant": variant, "max_accuracy_loss": 0.05}
        asked = parse_request("few", model, {"epochs": 6, "learning_rate": 0.01}, settings)
        result = await Training(asked, variant, settings, client).go_on(Turn(), ignore)
        assert result["model_version"] == str(number)
        assert result["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}]

        # Triton's answers are those of the variant, and about as good as the network's.
        report = result["variant"]
        assert report["triton_max_abs_difference"] <= report["tolerance"]
        reply = await client.infer("variants-live", inputs, timeout_s=30)
        assert reply.model_version == str(number)
        answers = reply.outputs["probabilities"].to_array()
        assert answers.dtype == np.float32
        assert (answers.argmax(1) == classes[:50]).mean() >= 0.8

        folder = triton.repository / "variants-live" / str(number)
        assert f"as ONNX in {variant.upper()}" in (folder / "card.md").read_text()
        assert report["kind"] == variant
        assert report["bytes"] == (folder / "model.onnx").stat().st_size < report["fp32_bytes"]
        assert abs(report["accuracy_loss"]) <= 0.05
        # Once more under the same task: what the version's card tells.
        assert await Training(asked, variant, settings, client).go_on(Turn(), ignore) == result


async def test_a_variant_that_loses_too_much_leaves_what_was_live(triton, client, tmp_path):
    settings = Settings(
        dataset_root=tmp_path / "data",
        model_repository=triton.repository,
        checkpoint_root=tmp_path / "checkpoints",
    )
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    values = rows @ np.array([1, 2, -1], np.float32) + np.float32(0.5)
    DatasetStore(settings.dataset_root).add("sums", {"train": {"x": rows, "target": values}})

    async def train(task_id, **more):
        async def ignore(_):
            pass

        model = {"architecture": "mlp", "model_id": "variant-refused", **more}
        asked = parse_request("sums", model, {"epochs": 3}, settings)
        return await Training(asked, task_id, settings, client).go_on(Turn(), ignore)

    await train("first")
    with pytest.raises(ExportError, match=r"the int8 variant has rmse .* where .* it loses 0"):
        await train("second", variant="int8", max_accuracy_loss=0.0)
    reply = await client.infer("variant-refused", {"x": Tensor.from_array(rows[:1])}, timeout_s=30)
    assert reply.model_version == "1"
    assert sorted(path.name for path in (triton.repository / "variant-refused").iterdir()) == [
        "1",
        "config.pbtxt",
    ]
