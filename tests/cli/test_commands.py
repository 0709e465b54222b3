"""Each command on a stack that `mlbridge up` made, and where nothing runs."""

import json
import time

import numpy as np
import pytest
import redis
from taskiq import TaskiqResult

from bridge.messages import encode_result

ROW = [[5.1, 3.5, 1.4, 0.2]]


@pytest.fixture(scope="module")
def iris(stack):
    """What the commands print that make a model of a csv file."""
    rng = np.random.default_rng(0)
    rows = [(name, *(rng.normal(place, 0.3, 4))) for name, place in (("a", 1), ("b", 3))] * 40
    lines = ["species,a,b,c,d", *(",".join(map(str, row)) for row in rows)]
    (stack.folder / "iris.csv").write_text("\n".join(lines))
    added = stack.run("datasets", "add", "iris", "iris.csv")
    assert added.returncode == 0, added.stderr
    assert "mlbridge train iris --architecture mlp -c target=COLUMN" in added.stdout
    command = ("train", "iris", "-c", "target=species", "-s", "epochs=2", "--json")
    trained = stack.run(*command)
    assert trained.returncode == 0, trained.stderr
    return json.loads(trained.stdout)


def sentence(result):
    """An error as people see it: one, and no traceback."""
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "hidden-" not in result.stdout + result.stderr
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def test_train_prints_json_alone(stack, iris):
    assert iris["model_name"] == "iris"
    assert iris["model_version"] == "1"
    assert iris["metrics"]["epochs"] == 2
    assert iris["labels"] == ["a", "b"]


def test_infer_from_standard_input(stack, iris):
    for way in ([], ["--direct"]):
        result = stack.run("infer", "iris", *way, "--json", stdin=json.dumps({"features": ROW}))
        reply = json.loads(result.stdout)
        assert reply["model_version"] == "1"
        assert np.sum(reply["outputs"]["probabilities"]) == pytest.approx(1, abs=1e-5)


def test_infer_from_files(stack, iris):
    np.save(stack.folder / "row.npy", np.array(ROW, np.float32))
    (stack.folder / "row.json").write_text(json.dumps(ROW))
    for name in ("row.npy", "row.json"):
        result = stack.run("infer", "iris", "--input", f"features={name}")
        assert result.returncode == 0, result.stderr
        assert "iris version 1, through the queue" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        ([], "no", "standard input is not JSON"),
        ([], "[1]", "standard input must hold an object"),
        (["-i", "features"], "", "--input must be NAME=FILE"),
        (["-i", "features=none.npy"], "", "cannot read none.npy"),
        (["-i", "features=broken.npy"], "", "broken.npy holds no tensor"),
        (["-i", "features=empty.npy"], "", "empty.npy holds no tensor"),
        (["-i", "features=several.npy"], "", "several.npy holds no tensor: it is an .npz"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(nothing_up, arguments, stdin, told):
    (nothing_up.folder / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00broken")
    (nothing_up.folder / "empty.npy").touch()
    with (nothing_up.folder / "several.npy").open("wb") as file:
        np.savez(file, a=np.zeros(1), b=np.zeros(1))
    result = sentence(nothing_up.run("infer", "iris", *arguments, stdin=stdin))
    assert result.startswith(f"InvalidInputError: {told}")


@pytest.mark.parametrize(
    ("model", "stdin", "told"),
    [
        ("iris", '{"features": [[1, 2]]}', "ShapeError: "),
        ("iris", "{}", "MissingInputError: "),
        ("iris", '{"features": [[1, 2, 3, 4]], "height": [[1]]}', "SurplusInputError: "),
        ("nobody", '{"x": [[1]]}', "UnknownModelError: "),
    ],
)
@pytest.mark.parametrize("way", [[], ["--direct"]], ids=["queue", "direct"])
def test_bad_input_is_one_sentence(stack, iris, model, stdin, told, way):
    assert sentence(stack.run("infer", model, *way, stdin=stdin)).startswith(told)


def test_a_training_that_fails_is_one_sentence(stack, iris):
    told = sentence(stack.run("train", "nowhere", "--json"))
    assert "DatasetError: there is no dataset 'nowhere'" in told
    told = sentence(stack.run("train", "iris", "--set", "epochs"))
    assert "--set: expected KEY=VALUE, got 'epochs'" in told


def test_status_of_what_is_up(stack):
    deadline = time.monotonic() + 90  # a pool says some time after its start that it is ready
    while (result := stack.run("status", "--json")).returncode != 0:
        assert time.monotonic() < deadline, result.stdout
    status = json.loads(result.stdout)
    assert [part["part"] for part in status["parts"]] == [
        *("RabbitMQ", "Redis", "Triton", "inference workers", "training workers"),
        *("worker pool", "worker pool"),
    ]
    assert {part["state"] for part in status["parts"]} == {"up"}
    assert [worker["state"] for worker in status["workers"]] == ["ready", "ready"]
    queue = status["queues"][0]
    assert (queue["queue"], queue["waiting"], queue["consumers"]) == ("taskiq_ml", 0, 1)


def test_the_doctor_finds_nothing_wrong_with_what_is_up(stack, iris):
    parts = ("rabbitmq", "queues", "redis", "results", "triton", "models", "prefetch", "repository")
    chosen = [word for part in parts for word in ("--only", part)]
    result = stack.run("doctor", *chosen, "--json")
    report = json.loads(result.stdout)
    codes = {found["code"]: found["what"] for found in report["findings"]}
    assert result.returncode == 0, codes
    # What `up` does without, and what is left of tests before this one.
    assert set(codes) <= {"ok", "management-absent", "redis-unbounded", "dead-letters"}, codes


def test_status_of_a_task(stack, iris):
    result = stack.run("status", iris["task_id"], "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["state"] == "succeeded"
    assert stack.run("status", iris["task_id"]).returncode == 0
    result = stack.run("status", "nobody-sent-it", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["state"] == "unknown"
    queued = stack.run("train", "nowhere", "--no-wait", "--json")
    task_id = json.loads(queued.stdout)["task_id"]
    while (result := stack.run("status", task_id, "--json")).returncode == 1:
        found = json.loads(result.stdout)
        if found["state"] != "unknown":
            break
    assert found["state"] == "failed"
    assert found["error"].startswith("DatasetError: ")


def test_a_task_of_somebodys_own_may_return_anything(stack):
    done = TaskiqResult(is_err=False, return_value=42, execution_time=0.1)
    with redis.Redis.from_url(stack.environment["REDIS_URL"]) as store:
        store.set("answer", encode_result(done), ex=600)
    status = stack.run("status", "answer")
    assert status.returncode == 0, status.stderr
    assert "42" in status.stdout
    followed = stack.run("follow", "answer", "--json")
    assert followed.returncode == 0, followed.stderr
    assert json.loads(followed.stdout) == {"task_id": "answer", "result": 42}


def test_models_with_and_without_the_key(stack, iris):
    for key in (stack.environment["TRITON_ADMIN_KEY"], ""):
        result = stack.run("models", "--json", TRITON_ADMIN_KEY=key)
        assert result.returncode == 0, result.stderr
        [model] = json.loads(result.stdout)
        assert (model["name"], model["version"], model["state"]) == ("iris", "1", "READY")
        assert model["inputs"]["features"] == {"datatype": "FP32", "shape": [-1, 4]}
    assert "iris" in stack.run("models").stdout


def test_withdraw_and_restore(stack, iris):
    question = stack.run("withdraw", "iris", stdin="n\n")
    assert question.returncode == 1
    asked = (
        "Withdraw version 1 of iris? Nothing serves it then: its tasks are tried again for a while"
    )
    assert asked in question.stderr
    withdrawn = stack.run("withdraw", "iris", "--yes")
    assert "Version 1 of iris is withdrawn. Triton serves no version." in withdrawn.stdout
    assert "mlbridge restore iris --version 1" in withdrawn.stdout
    assert "there is no model" in sentence(stack.run("withdraw", "iris", "--yes"))
    restored = stack.run("restore", "iris", "--json")
    assert json.loads(restored.stdout) == {"model": "iris", "version": 1, "serving": [1]}
    assert "no version of model 'iris'" in sentence(stack.run("restore", "iris"))
    refused = sentence(stack.run("withdraw", "iris", "--yes", TRITON_ADMIN_KEY="wrong"))
    assert "RestrictedError" in refused
    both = f"{stack.environment['TRITON_URL']},127.0.0.1:1"
    away = sentence(stack.run("withdraw", "iris", "--yes", TRITON_URL=both))
    assert "127.0.0.1:1 is not available" in away
    assert "nothing has changed; leave it out of TRITON_URL to go on without it" in away
    answer = stack.run("infer", "iris", "--json", stdin=json.dumps({"features": ROW}))
    assert json.loads(answer.stdout)["model_version"] == "1"


def test_load(stack, iris):
    loaded = stack.run("load", "iris", "--json")
    assert json.loads(loaded.stdout) == {"model": "iris", "serving": [1]}
    assert "Triton serves 1 of iris." in stack.run("load", "iris").stdout
    assert "nowhere/config.pbtxt" in sentence(stack.run("load", "nowhere"))
    assert "RestrictedError" in sentence(stack.run("load", "iris", TRITON_ADMIN_KEY="wrong"))


def test_datasets(stack, iris):
    [row] = json.loads(stack.run("datasets", "list", "--json").stdout)
    assert row["dataset_id"] == "iris"
    assert row["splits"] == {"train": 80}
    shown = json.loads(stack.run("datasets", "show", "iris", "--json").stdout)
    assert shown == row
    assert iris["dataset_hash"] == row["dataset_hash"]
    checked = stack.run("datasets", "validate", "iris", "--target", "species", "--json")
    assert json.loads(checked.stdout)["labels"] == ["a", "b"]
    assert stack.run("datasets", "validate", "iris").returncode == 1
    assert "exists already" in sentence(stack.run("datasets", "add", "iris", "iris.csv"))
    assert "there is no dataset" in sentence(stack.run("datasets", "show", "nowhere"))
    assert "there is no dataset" in sentence(stack.run("datasets", "remove", "nowhere", "--yes"))
    assert stack.run("datasets", "add", "spare", "iris.csv").returncode == 0
    assert stack.run("datasets", "remove", "spare", stdin="n\n").returncode == 1
    assert stack.run("datasets", "show", "spare").returncode == 0
    assert "removed" in stack.run("datasets", "remove", "spare", stdin="y\n").stdout
    assert [path.name for path in (stack.folder / "datasets").glob("*spare*")] == []


def test_secrets_are_in_no_log(stack, iris):
    values = stack.environment
    secrets = [values["TRITON_ADMIN_KEY"], values["RABBITMQ_PASSWORD"]]
    secrets.append(values["REDIS_URL"].partition("@")[0].rpartition(":")[2])
    assert all(len(secret) > 20 for secret in secrets)
    for log in (stack.log, *stack.state.glob("*/*.log")):
        assert not any(secret in log.read_text(errors="replace") for secret in secrets), log
    assert (stack.state / "env").stat().st_mode & 0o077 == 0


def test_where_nothing_runs(nothing_up):
    result = nothing_up.run("status", "--json")
    assert result.returncode == 1
    assert not any(part["state"] == "up" for part in json.loads(result.stdout)["parts"])
    assert "hidden-" not in result.stdout + result.stderr
    for command in (["infer", "m"], ["train", "d"]):
        assert "cannot use Redis at redis://127.0.0.1:" in sentence(
            nothing_up.run(*command, stdin='{"x": [[1]]}')
        )
    told = sentence(nothing_up.run("infer", "m", "--direct", stdin='{"x": [[1]]}'))
    assert told.startswith("TritonUnavailableError: ")
    assert "QueueError: cannot use RabbitMQ at amqp://127.0.0.1:" in sentence(
        nothing_up.run("worker", "inference")
    )


@pytest.mark.parametrize(
    ("name", "value"), [("RABBITMQ_PORT", "x"), ("TRITON_URL", "http://t"), ("BRIDGE_QUEUE", "k")]
)
def test_a_bad_variable_is_one_sentence(nothing_up, name, value):
    told = sentence(nothing_up.run("status", **{name: value}))
    assert told.startswith(f"SettingsError: cannot use the environment: {name}: ")
