"""The code in README and docs runs, block by block, as blocks.yaml says."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import boto3
import moto
import numpy as np
import pytest
import redis
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from bridge.embedded.ports import free_ports
from bridge.training.datasets import DatasetStore

ROOT = Path(__file__).parent.parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.timeout(600)  # a block may build on several that train


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str


BLOCKS = [
    Block(str(page.relative_to(ROOT)), token.map[0] + 1, token.info, token.content)
    for page in PAGES
    for token in MarkdownIt().parse(page.read_text())
    if token.type == "fence" and token.info  # without a language: pictures, excerpts
]
TOLD = yaml.safe_load(Path(__file__).with_name("blocks.yaml").read_text())
PLANS = [{"page": page, **plan} for page, plans in TOLD.items() for plan in plans]


def block_of(plan):
    [found] = [
        block
        for block in BLOCKS
        if block.page == plan["page"] and block.text.startswith(plan["starts"])
    ]
    return found


def block(page, starts):
    return block_of({"page": page, "starts": starts}).text


def those(kind):
    plans = [plan for plan in PLANS if kind in plan]
    return pytest.mark.parametrize(
        "plan", plans, ids=[f"{plan['page']}: {plan['starts'].strip()}" for plan in plans]
    )


def test_each_block_has_a_plan():
    assert {block_of(plan) for plan in PLANS} == set(BLOCKS)
    kinds = {"run", "make", "by", "tested", "not"}
    for plan in PLANS:
        assert len(kinds & plan.keys()) == 1, plan
        assert "by" not in plan or plan["by"] in globals(), plan
        assert "tested" not in plan or plan["word"] in (ROOT / plan["tested"]).read_text(), plan


def run(terminal, plan):
    """The block, after those that it builds on; one with a name runs once for all."""
    if plan.get("name") in terminal.ran:
        return
    for name in plan["run"]:
        run_by_name(terminal, name)
    found = block_of(plan)
    text = found.text
    for pattern, instead in plan.get("changes", []):
        text, count = re.subn(pattern, instead, text)
        assert count, f"{pattern!r} is not in {found}"
    commands = plan.get("then", [])
    assert all(command in text for command in commands)
    for name in re.findall(r"datasets add (\w+)", "\n".join([text, *commands])):
        if (terminal.folder / "datasets" / name).exists():  # another page's
            terminal.shell(f"mlbridge datasets remove {name} --yes")
    if found.language == "python":
        terminal.python(text, plan.get("given", ""), plan.get("within", ""))
    else:
        terminal.shell(text, plan.get("stdin", ""))
    for command in commands:
        terminal.shell(command)
    if "name" in plan:
        terminal.ran.add(plan["name"])


def run_by_name(terminal, name):
    if name in PREPARED and name not in terminal.ran:
        PREPARED[name](terminal.folder)
        terminal.ran.add(name)
    elif name not in PREPARED:
        run(terminal, next(plan for plan in PLANS if plan.get("name") == name))


@those("run")
async def test_a_block(terminal, plan):
    if "needs" in plan and not shutil.which(plan["needs"]):
        pytest.skip(f"there is no {plan['needs']} here")
    if plan.get("letters"):
        await send_what_nobody_understands(terminal)
    await asyncio.to_thread(run, terminal, plan)


def pictures(folder):
    rng = np.random.default_rng(0)
    for kind, colour in (("cat", 60), ("dog", 190)):
        (folder / "pictures" / kind).mkdir(parents=True)
        for number in range(24):
            pixels = rng.normal(colour, 20, (48, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / kind / f"{number}.png")


def photos(folder):
    rng = np.random.default_rng(0)
    target = np.arange(300) % 10
    image = rng.normal(target[:, None, None, None] * 25, 5, (300, 3, 16, 16)).astype(np.float32)
    DatasetStore(folder / "datasets").add("photos", {"train": {"image": image, "target": target}})


PREPARED = {"pictures": pictures, "photos": photos}


async def send_what_nobody_understands(terminal):
    unknown = '{"task_id":"%s","task_name":"shop.resize","labels":{},"args":[],"kwargs":{}}'
    for body in ("no task at all", unknown % "u1", unknown % "u2"):
        await publish(terminal, body)
    async with asyncio.timeout(60):
        while "shop.resize" not in await asyncio.to_thread(terminal.shell, "mlbridge dlq list"):
            await asyncio.sleep(0.2)


async def publish(terminal, body, routing_key="taskiq_ml"):
    async with await aio_pika.connect(terminal.environment["AMQP_URL"]) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("taskiq")
        await exchange.publish(aio_pika.Message(body.encode()), routing_key)


async def record(terminal, task_id):
    with redis.Redis.from_url(terminal.environment["REDIS_URL"]) as store:
        async with asyncio.timeout(120):
            while (found := store.get(task_id)) is None:
                await asyncio.sleep(0.1)
    return json.loads(found)


async def test_a_message_by_hand(terminal):
    """It and its answer have the keys that the page shows."""
    await asyncio.to_thread(run_by_name, terminal, "digits")
    message = json.loads(block("docs/calling.md", '{"task_id"'))
    message["args"][1]["image"] = np.zeros((1, 8, 8)).tolist()
    await publish(terminal, json.dumps(message))
    answer = await record(terminal, message["task_id"])
    shown = json.loads(block("docs/calling.md", '{"is_err"'))
    assert answer.keys() == shown.keys()
    assert answer["return_value"].keys() == shown["return_value"].keys()
    assert answer["return_value"]["outputs"].keys() == shown["return_value"]["outputs"].keys()


async def test_a_training_by_hand_and_its_result(terminal):
    """Its message, its progress and its result have the keys that the page shows."""
    await asyncio.to_thread(run_by_name, terminal, "iris")
    message = json.loads(block("docs/training.md", '{"task_id"'))
    await publish(terminal, json.dumps(message), "taskiq_ml_training")
    seen = set()
    with redis.Redis.from_url(terminal.environment["REDIS_URL"]) as store:
        while store.get(message["task_id"]) is None:
            command = f"mlbridge status {message['task_id']} --json || true"  # unknown at first
            told = json.loads(await asyncio.to_thread(terminal.shell, command))
            seen |= (told.get("progress") or {}).keys()
            await asyncio.sleep(0.1)
    answer = await record(terminal, message["task_id"])
    assert json.loads(block("docs/training.md", '{"epoch"')).keys() <= seen
    shown = json.loads(block("docs/training-result.md", '{"model_name"'))
    assert shown.keys() <= answer["return_value"].keys()
    for key in ("metrics", "parity", "timings"):
        assert answer["return_value"][key].keys() == shown[key].keys()


async def test_a_variants_result(terminal):
    await asyncio.to_thread(run_by_name, terminal, "photos")
    command = block("docs/training-models.md", "mlbridge train photos --architecture cnn")
    result = json.loads(await asyncio.to_thread(terminal.shell, command.strip() + " --json"))
    shown = json.loads(block("docs/training-result.md", '{"variant"'))
    assert result["variant"].keys() == shown["variant"].keys()


def test_an_architecture_of_your_own(terminal):
    run_by_name(terminal, "iris")
    (folder := terminal.folder / "own").mkdir()
    page = "docs/training-models.md"
    project = block(page, "[build-system]")
    assert tomllib.loads(project)["build-system"]["build-backend"] == "hatchling.build"
    (folder / "pyproject.toml").write_text(project)
    (folder / "my_architectures.py").write_text(block(page, "from pydantic"))
    install, train = block(page, "pip install .").splitlines()
    # Not into the environment of the tests: where the workers of the stack look as well.
    flags = f"--quiet --no-deps --no-index --no-build-isolation --target {terminal.packages}"
    terminal.shell(f"cd own; {shlex.quote(sys.executable)} -P -m {install} {flags}")
    terminal.shell(train)


@pytest.mark.parametrize(
    ("words", "processes"),
    [("--use-process-pool", 3), ("broker:training_broker", 1), ("bridge.tasks.inference", 2)],
)
def test_worker_commands(terminal, words, processes):
    commands = [
        command
        for block in BLOCKS
        if block.page == "README.md"
        for command in block.text.splitlines()
        if command.startswith("python -m taskiq worker")
    ]
    [command] = [command for command in commands if words in command]
    shop = terminal.folder / "shop"
    shop.mkdir(exist_ok=True)
    (shop / "tasks.py").write_text(
        "from bridge.broker import broker\n\n\n@broker.task\nasync def resize() -> None: ...\n"
    )
    log = terminal.folder / "readme-worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            shlex.split(command),
            cwd=ROOT if "bridge/tasks" in command else terminal.folder,
            env=terminal.environment | {"BRIDGE_METRICS_PORT": str(free_ports(1)[0])},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while log.read_text().count("Listening started.") < processes:
            assert worker.poll() is None, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
            time.sleep(0.1)
    finally:
        os.killpg(worker.pid, signal.SIGTERM)
        worker.wait(60)


def test_what_is_scaled_on_is_a_metric():
    [trigger] = yaml.safe_load(block("docs/monitoring.md", "# KEDA"))["triggers"]
    [metric] = re.findall(r"bridge_\w+", trigger["metadata"]["query"])
    boards = (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
    assert any(metric in board.read_text() for board in boards)  # their queries are tried


def test_s3_takes_the_rules(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    rules = json.loads(block("docs/settings.md", '{"Rules"'))
    with moto.mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="payloads")
        client.put_bucket_lifecycle_configuration(Bucket="payloads", LifecycleConfiguration=rules)
        found = client.get_bucket_lifecycle_configuration(Bucket="payloads")
    assert [rule["ID"] for rule in found["Rules"]] == ["bridge-payloads"]


@those("make")
def test_targets_take_their_arguments(plan):
    """With --help behind the arguments, what is called looks at them and does nothing."""
    make = ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    for line in block_of(plan).text.splitlines():
        program, target, *rest = shlex.split(line, comments=True)
        if program == "mlbridge":
            command = [sys.executable, "-P", "-m", "bridge", target, *rest, "--help"]
        elif rest and target != "gpu-check":  # which looks for a GPU first
            [arguments] = rest
            command = [*make, target, f"{arguments} --help"]
        else:
            command = [*make, target, "--dry-run"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "--dry-run" in command or "usage" in done.stdout.lower()
