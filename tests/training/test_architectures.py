"""Shapes that architectures take, and what the network around them learns."""

import numpy as np
import pytest
import torch

from bridge.errors import DatasetError, InvalidTrainingRequestError
from bridge.training import architectures
from bridge.training.architectures import Network, build
from bridge.training.opening import takes_sequences
from bridge.training.tolerances import tolerance_for


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_what_is_known_of_ours_without_torch_is_so(name):
    assert takes_sequences(name) == architectures.takes_sequences(name)


def test_another_s_class_is_asked():
    with pytest.raises(InvalidTrainingRequestError, match="'nobody' cannot be loaded"):
        takes_sequences("nobody")


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 32, 20), (4, 4), (16, 5, 9)])
def test_cnn_takes_images_of_any_size(shape):
    network = build("cnn", {}, shape, 7).eval()
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (8, 8, 3), (32, 32, 32), (1, 2, 8, 8)])
def test_cnn_refuses_other_shapes_with_the_remedy(shape):
    with pytest.raises(DatasetError, match=r"cnn takes images .*use mlp, and move the channels"):
        build("cnn", {}, shape, 7)


@pytest.mark.parametrize("shape", [(1,), (30,), (4, 4)])
def test_mlp_takes_rows_of_any_shape(shape):
    network = build("mlp", {"hidden": [5]}, shape, 2).eval()
    assert network(torch.zeros(3, *shape)).shape == (3, 2)
    assert build("mlp", {"hidden": []}, shape, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 5},
        {"hidden": [0]},
        {"hidden": [1.5]},
        {"hidden": [10**9]},
        {"dropout": 1},
        {"width": 3},
        [],
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InvalidTrainingRequestError, match=r"model_config\.options"):
        build("mlp", options, (3,), 2)


def test_a_network_that_cannot_fit_is_refused_before_it_is_made():
    with pytest.raises(InvalidTrainingRequestError, match=r"takes 137\.4 GB to train, and .* free"):
        build("mlp", {"hidden": [65_536, 65_536, 65_536]}, (3,), 2)


@pytest.mark.usefixtures("architectures_of_a_user")
@pytest.mark.parametrize(("name", "why"), [("absent", "ModuleNot"), ("nothing", "AttributeErr")])
def test_an_entry_point_that_cannot_be_used(name, why):
    with pytest.raises(InvalidTrainingRequestError, match=f"'{name}' cannot be loaded: {why}"):
        build(name, {}, (3,), 2)


def test_normalisation_is_learned_and_travels_with_the_network():
    rows = torch.tensor([[0.0, 100.0, 5.0], [2.0, 300.0, 5.0]])
    network = Network(torch.nn.Identity(), rows, None)
    assert network(rows).tolist() == [[-1, -1, 0], [1, 1, 0]]  # a constant stays finite
    assert {"input_mean", "input_scale"} <= set(network.state_dict())


@pytest.mark.parametrize(
    ("shape", "learned"),
    [((9, 4), (4,)), ((9, 6, 5), (1, 1)), ((9, 3, 6, 5), (3, 1, 1))],
    ids=["each number", "grey image", "each channel"],
)
def test_what_is_normalised_by_itself(shape, learned):
    rows = torch.randn(shape)
    assert Network(torch.nn.Identity(), rows, None).input_mean.shape == learned


def test_answers_are_in_the_callers_units():
    rows, values = torch.randn(50, 2), torch.randn(50, 1) * 1000 + 7e4
    network = Network(torch.nn.Linear(2, 1), rows, values)
    wanted = network.inner((rows - network.input_mean) / network.input_scale)
    torch.testing.assert_close(network.wanted(network.answer(rows)), wanted, rtol=0, atol=1e-3)
    classes = Network(torch.nn.Linear(2, 3), rows, None).answer(rows)
    torch.testing.assert_close(classes.sum(1), torch.ones(50))


def test_tolerance_grows_with_the_answers():
    assert tolerance_for(np.array([0.5])) == 1e-4
    assert tolerance_for(np.array([-2000.0, 3.0])) == pytest.approx(0.2)


def test_very_small_numbers_are_no_constants():
    rows = np.array([[1e-9, 0.1], [3e-9, 0.1]], np.float32)
    network = Network(torch.nn.Identity(), rows, rows[:, :1])
    found = network(torch.from_numpy(rows)).flatten().tolist()
    assert found == pytest.approx([-1, 0, 1, 0])
    assert network.input_scale[1] == 1
    assert network.value_scale.tolist() == pytest.approx([1e-9])
