"""Runs what was built: health, user, end, and an inference through the queue.

Enters: images and their roots, by target. Leaves: a row for each. RabbitMQ and Redis are this
machine's, embedded; so is Triton where `triton-cpu` is not tried. All of it on a network of its
own, on which there is nothing else, so that every port is the image's own.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import onnx
from container import Container, TrialError
from dockerfile import Image
from onnx import TensorProto, helper

from bridge.client import BridgeClient
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.settings import load_settings
from bridge.training.datasets import DatasetStore

ORDER = ("triton-cpu", "dashboard", "inference", "training")
"""Which image is started after which."""
_HOME = "/srv/bridge"
_FOLDERS = ("model_repository", "datasets", "checkpoints", "dashboard")
_SHARES = {
    "triton-cpu": ("model_repository",),
    "training": ("model_repository", "datasets", "checkpoints"),
    "dashboard": ("dashboard",),
}
_METRICS_PORTS = {"inference": "9464", "training": "9465"}  # one network for all of them


async def run_images(images: Mapping[str, tuple[Path, Image]]) -> list[dict[str, object]]:
    """Start each image, use it, stop it.

    Args:
        images: root and image by target.

    Returns:
        For each target: user id, seconds until healthy, what it did, seconds to stop, exit code.

    Raises:
        TrialError: one of them does not do what it is for.
    """
    with tempfile.TemporaryDirectory(prefix="try-dockerfile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for shared in _FOLDERS:
            (folder / shared).mkdir()
        _write_model(folder / "model_repository")
        containers: dict[str, Container] = {}
        async with (
            _servers(folder, embedded_triton="triton-cpu" not in images) as variables,
            AsyncExitStack() as stack,
        ):
            for target in (target for target in ORDER if target in images):
                container = _container(target, *images[target], folder, variables)
                containers[target] = await stack.enter_async_context(container)
            did = await _use(set(images), folder, variables)
        return [
            {
                "target": target,
                "user": images[target][1].user,
                "healthy after s": round(container.started_s, 1),
                "did": did.get(target, "answered"),
                "stopped in s": round(container.stopped_s, 1),
                "exit code": container.exit_code,
            }
            for target, container in containers.items()
        ]


def _container(
    target: str, root: Path, image: Image, folder: Path, variables: Mapping[str, str]
) -> Container:
    own = {"BRIDGE_METRICS_PORT": _METRICS_PORTS.get(target, "9464")}
    if target == "dashboard":
        # Triton's HTTP is at 8000.
        own = {"TASKIQ_DASHBOARD__API__TOKEN": "token", "TASKIQ_DASHBOARD__API__PORT": "8080"}
    wanted = {**variables, **own}
    if target == "inference":
        del wanted["TRITON_ADMIN_KEY"]
    return Container(
        target,
        root,
        image,
        environment=wanted if target != "dashboard" else own,
        volumes={f"{_HOME}/{shared}": folder / shared for shared in _SHARES.get(target, ())},
        log=folder / f"{target}.log",
    )


@asynccontextmanager
async def _servers(folder: Path, *, embedded_triton: bool) -> AsyncIterator[dict[str, str]]:
    """What the images need, and the variables that say where it is."""
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(StateFolder())
        rabbitmq = await stack.enter_async_context(RabbitMQServer(state))
        redis = await stack.enter_async_context(RedisServer(state))
        key, address = secrets.token_hex(16), "127.0.0.1:8001"
        if embedded_triton:
            repository = folder / "model_repository"
            triton = TritonServer(state, repository, admin_key=key)
            address = (await stack.enter_async_context(triton)).address
        host, _, port = rabbitmq.address.partition(":")
        yield {
            "RABBITMQ_HOST": host,
            "RABBITMQ_PORT": port,
            "RABBITMQ_USERNAME": rabbitmq.username,
            "RABBITMQ_PASSWORD": rabbitmq.password,
            "REDIS_URL": redis.url,
            "TRITON_URL": address,
            "TRITON_ADMIN_KEY": key,
        }


async def _use(targets: set[str], folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """What callers do: through the queue, from a dataset to a prediction."""
    os.environ.update(variables, DATASET_ROOT=str(folder / "datasets"))
    did: dict[str, str] = {}
    async with BridgeClient(load_settings()) as client:
        if "inference" in targets:
            rows = np.arange(4, dtype=np.float32).reshape(1, 4)
            async with asyncio.timeout(120):
                result = await client.infer("double", {"x": rows})
            if not np.array_equal(result.outputs["y"], rows * 2):
                raise TrialError(f"double made {result.outputs} of {rows}")
            did["inference"] = "predicted through the queue"
        if "training" in targets:
            await asyncio.to_thread(_add_dataset, folder / "datasets")
            handle = await client.train(
                "blobs", {"architecture": "mlp", "target": "label"}, {"epochs": 2}
            )
            trained = await handle.result(timeout_s=480)
            did["training"] = f"trained {trained['model_name']} {trained['model_version']}"
            if "inference" in targets:
                await client.infer(trained["model_name"], {"features": np.zeros((1, 2), "f4")})
                did["inference"] += ", with what was trained too"
    return did


def _add_dataset(root: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200, dtype=np.int64) % 2
    features = (rng.normal(size=(200, 2)) + 4 * labels[:, None]).astype(np.float32)
    splits = {
        "train": {"features": features[:160], "label": labels[:160]},
        "validation": {"features": features[160:], "label": labels[160:]},
    }
    DatasetStore(root).add("blobs", splits)
    for path in [root, *root.rglob("*")]:  # as if a caller of the same group had put it there
        os.chown(path, 10001, 10001)


def _write_model(repository: Path) -> None:
    """`double`: y = x + x, rows of four."""
    (repository / "double" / "1").mkdir(parents=True)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 4]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "double", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(repository / "double" / "1" / "model.onnx"))
    (repository / "double" / "config.pbtxt").write_text(
        'backend: "onnxruntime"\nmax_batch_size: 8\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]\n'
    )
