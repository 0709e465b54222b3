"""What an operator writes into `config.pbtxt` stays, and new versions are tried with it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from bridge.embedded.triton import TritonServer
from bridge.errors import TritonError
from bridge.repository import Candidate, ModelRepository, Signature, render_config
from bridge.tensors import Tensor, TensorSpec
from bridge.triton_client import TritonClient

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), max_batch_size=8
)
EDIT = """name: "{model}"
parameters {{ key: "io_binding" value: {{ string_value: "fixed" }} }}
version_policy: {{ all {{ }} }}
"""


@pytest.fixture
async def client(triton: TritonServer) -> AsyncIterator[TritonClient]:
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


@pytest.fixture
def lay(
    model_repository: Path, save_multiplier: Callable[..., Path], tmp_path: Path
) -> Callable[[str, float], Candidate]:
    def lay(model: str, factor: float) -> Candidate:
        made = save_multiplier(tmp_path / str(factor), "m", factor)
        return ModelRepository(model_repository).lay_candidate(model, made / "1", SIGNATURE)

    return lay


async def ask(client: TritonClient, name: str, version: str = "") -> float:
    x = Tensor.from_array(np.ones((1, 4), np.float32))
    reply = await client.infer(name, {"x": x}, version=version, timeout_s=60)
    return float(reply.outputs["y"].to_array()[0, 0])


async def test_the_next_version_is_tried_and_served_with_it(client, lay, model_repository):
    repository = ModelRepository(model_repository)
    assert repository.publish(lay("operated", 2.0), {"task_id": "1"}) == 1
    config = model_repository / "operated" / "config.pbtxt"
    edited = EDIT.format(model="operated") + render_config(SIGNATURE)
    config.write_text(edited)
    await client.load("operated")

    candidate = lay("operated", 3.0)
    await client.load(candidate.name)
    assert await ask(client, candidate.name) == 3.0
    assert repository.publish(candidate, {"task_id": "2"}) == 2
    await client.unload(candidate.name)
    repository.remove_candidate(candidate)
    await client.load("operated")
    assert config.read_text() == edited
    # By default Triton serves the newest version only: the edit is in force.
    assert [await ask(client, "operated", version) for version in ("1", "2")] == [2.0, 3.0]


async def test_an_edit_that_no_longer_fits_the_model_keeps_the_candidate_back(
    client, lay, model_repository
):
    repository = ModelRepository(model_repository)
    repository.publish(lay("mistaken", 2.0), {"task_id": "1"})
    config = model_repository / "mistaken" / "config.pbtxt"
    config.write_text(render_config(SIGNATURE).replace('"y"', '"z"'))
    candidate = lay("mistaken", 3.0)
    with pytest.raises(TritonError, match="must name each output"):
        await client.load(candidate.name)
    repository.remove_candidate(candidate)
