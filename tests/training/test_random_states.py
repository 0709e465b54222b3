"""Random states in checkpoints. Those of a GPU are made up: it is looked at what torch is told."""

import random

import numpy as np
import pytest
import torch

from bridge.training.slicer import Slicer, Slices, Writer

SAVED, OTHER = torch.arange(16, dtype=torch.uint8), torch.zeros(16, dtype=torch.uint8)


class Cuda:
    """Of one process, which sees several GPUs and has one of them."""

    def __init__(self, monkeypatch):
        self.told = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: SAVED)
        monkeypatch.setattr(torch.cuda, "set_rng_state", self.told.append)
        for name in ("get_rng_state_all", "set_rng_state_all"):
            monkeypatch.delattr(torch.cuda, name)


@pytest.fixture
def slicer(tmp_path):
    return Slicer(Slices(tmp_path, lambda _: None), Writer())


def saved_and_read(state, tmp_path):
    torch.save(state, tmp_path / "state")
    return torch.load(tmp_path / "state", weights_only=True)


def draw():
    return random.random(), np.random.random(), float(torch.rand(1))  # noqa: NPY002, S311


def test_what_is_drawn_goes_on(slicer, tmp_path):
    state = saved_and_read(slicer.state_dict(), tmp_path)
    drawn = draw()
    slicer.load_state_dict(state)
    slicer.on_train_start(None, None)
    assert draw() == drawn


def test_a_process_keeps_the_state_of_its_own_gpu(slicer, tmp_path, monkeypatch):
    cuda = Cuda(monkeypatch)
    slicer.load_state_dict(saved_and_read(slicer.state_dict(), tmp_path))
    slicer.on_train_start(None, None)
    assert [state.tolist() for state in cuda.told] == [SAVED.tolist()]


def test_older_checkpoints_have_the_state_of_each_gpu(slicer, monkeypatch):
    """Of more than there are here, perhaps."""
    cuda = Cuda(monkeypatch)
    slicer.load_state_dict({**slicer.state_dict(), "cuda": [SAVED, OTHER]})
    slicer.on_train_start(None, None)
    assert cuda.told == [SAVED]


def test_from_a_gpu_to_processors(slicer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    slicer.load_state_dict({**slicer.state_dict(), "cuda": [SAVED]})
    slicer.on_train_start(None, None)


def test_from_processors_to_a_gpu(slicer, monkeypatch):
    state = slicer.state_dict()
    cuda = Cuda(monkeypatch)
    slicer.load_state_dict(state)
    slicer.on_train_start(None, None)
    assert cuda.told == []
