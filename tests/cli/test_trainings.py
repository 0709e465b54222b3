"""Steering a training from the command line, on a stack that `mlbridge up` made."""

import json
import time

import numpy as np


def state_of(stack, task_id):
    return json.loads(stack.run("status", task_id, "--json").stdout)


def until(look, wanted, most_s=60):
    deadline = time.monotonic() + most_s
    while (found := look())["state"] != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_pause_resume_cancel_and_read_the_log(stack):
    rng = np.random.default_rng(0)
    rows = [(name, *(rng.normal(place, 0.3, 4))) for name, place in (("a", 1), ("b", 3))] * 40
    lines = ["species,a,b,c,d", *(",".join(map(str, row)) for row in rows)]
    (stack.folder / "steered.csv").write_text("\n".join(lines))
    assert stack.run("datasets", "add", "steered", "steered.csv").returncode == 0
    train = ("train", "steered", "-c", "target=species", "-s", "epochs=100000", "--no-follow")
    first = json.loads(stack.run(*train, "--key", "once", "--priority", "3", "--json").stdout)
    again = json.loads(stack.run(*train, "--key", "once", "--json").stdout)
    assert first == again
    task_id = first["task_id"]
    deadline = time.monotonic() + 60
    while not (state_of(stack, task_id)["progress"] or {}).get("curve"):
        assert time.monotonic() < deadline
        time.sleep(0.2)

    assert stack.run("pause", task_id).stdout == f"{task_id}: pausing\n"
    paused = until(lambda: state_of(stack, task_id), "paused")
    assert (paused["priority"], paused["slices"]) == (3, 1)
    shown = stack.run("status", task_id).stdout
    assert "paused" in shown
    assert "validation loss" in shown
    listed = json.loads(stack.run("status", "--json").stdout)["trainings"]
    [job] = [job for job in listed if job["task_id"] == task_id]
    assert job["state"] == "paused"
    assert job["progress"]["epochs"] == 100000
    assert "---- slice 1, " in stack.run("logs", task_id).stdout

    assert stack.run("resume", task_id).stdout == f"{task_id}: resumed\n"
    until(lambda: state_of(stack, task_id), "running")
    cancelled = json.loads(stack.run("cancel", "--now", task_id, "--json").stdout)
    assert cancelled == [{"task_id": task_id, "cancelled": True, "what": "cancelled"}]
    assert state_of(stack, task_id)["state"] == "cancelled"
    again = stack.run("cancel", task_id)
    assert (again.returncode, again.stdout) == (1, f"{task_id}: has ended already\n")
    # The worker is free again.
    assert "DatasetError" in stack.run("train", "nowhere").stderr
    late = stack.run("pause", task_id)
    assert late.stdout == f"{task_id}: has ended already\n"
    assert late.returncode == 1
    for command in ("pause", "resume"):
        mistyped = stack.run(command, "nobody")
        assert mistyped.stdout.startswith("nobody: no training of this id is known")
        assert mistyped.returncode == 1
    assert "nobody" not in stack.run("status", "--json").stdout
    nobody = stack.run("logs", "nobody")
    assert nobody.returncode == 1
    assert "there is no log of task nobody" in nobody.stderr
