"""What every denoiser answers, whatever it is made of: nobody has to ask whether it has an attribute."""

from __future__ import annotations

import pytest
import torch

from langevin import denoisers, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, DataDescription, Generator, NetworkDenoiser
from langevin.objectives.bound import Continuous, Discretised, decoder_of_data

WORLD = worlds.random_mixture(2, components=2)


class Flat(torch.nn.Module):
    """A network that returns what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, time, condition):
        return x


def network(**settings):
    return NetworkDenoiser(Flat(), processes.VP(), AffineParameterization("eps"), (2,), **settings)


@pytest.mark.parametrize(
    "made",
    [WORLD.denoiser(processes.VP()), denoisers.dirac(WORLD.denoiser(processes.VP())), denoisers.dirac(network())],
    ids=["world", "transform of a world", "transform of a network"],
)
def test_what_is_not_there_is_empty(made):
    assert made.config == {}
    assert made.condition_sizes == {}
    assert made.counter is None
    assert made.parameterization is None


def test_a_network_says_how_it_is_read():
    made = network(config={"steps": 3})
    assert (made.config, made.counter.calls) == ({"steps": 3}, 0)
    assert made.parameterization.time == "log_sigma"
    assert made.condition_sizes == {}


def test_the_defaults_of_the_base_are_no_defaults_of_fields():
    """A dataclass takes an attribute of its base for the default of a field of that name."""
    with pytest.raises(TypeError, match="parameterization"):
        NetworkDenoiser(network=Flat(), process=processes.VP(), shape=(2,))
    with pytest.raises(TypeError, match="data"):
        Generator(Flat())


def test_data_say_what_they_know():
    """A world knows its moments, a set its range too; the decoder of a bound asks both alike."""
    info = DataInfo("grey", (1, 2, 2), levels=4)
    assert isinstance(info, DataDescription)
    assert isinstance(WORLD, DataDescription)
    assert (WORLD.low, WORLD.high, WORLD.levels, dict(WORLD.conditions)) == (None, None, None, {})
    assert isinstance(decoder_of_data(WORLD), Continuous)
    assert isinstance(decoder_of_data(None), Continuous)
    assert decoder_of_data(info) == Discretised(4, -1.0, 1.0)


def test_other_fields():
    one = network()
    other = one.replaced(class_label=1)
    assert type(other) is NetworkDenoiser
    assert (one.class_label, other.class_label, other.network is one.network) == (None, 1, True)
