"""What every denoiser answers, whatever it is made of: nobody has to ask whether it has an attribute."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from langevin import UserError, denoisers, guidance, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, DataDescription, Denoiser, Generator, NetworkDenoiser
from langevin.denoisers.base import Derived
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


@dataclass(frozen=True, eq=False)
class Parts(Derived):
    """A denoiser made of several, the belief of the first."""

    parts: tuple[Denoiser, ...]

    @property
    def base(self):
        return self.parts[0]

    @property
    def children(self):
        return self.parts

    def __call__(self, x_t, t):
        return self.base(x_t, t)


def test_what_is_made_of_others_says_what_they_say():
    """The conditions that are bound, the label, the learned variances and the data of its base, which it is made of."""
    info = DataInfo("grey", (2,))
    variances = {"mine": denoisers.dirac}
    one = network(condition={"label": torch.tensor([1, 2])}, class_label=2, learned_variances=variances, data=info)
    made = denoisers.dirac(one)
    assert made.children == (one,)
    assert (made.condition, made.class_label, made.learned_variances) == (one.condition, 2, variances)
    assert (made.data, made.output, made.output_shape) == (info, info, (2,))
    assert made.rows(slice(1, 2)).condition["label"].tolist() == [2]


def test_what_is_read_is_of_the_output():
    """Codes of other data: their description is one thing, that of what is read out of them another."""

    class Codes(Parts):
        output = DataInfo("pictures", (1, 4, 4))

    codes = Codes((network(data=DataInfo("codes", (2,))),))
    made = denoisers.dirac(codes)
    assert (made.data.name, made.output.name) == ("codes", "pictures")
    assert (made.shape, made.output_shape) == ((2,), (1, 4, 4))


def test_one_trained_part_is_enough():
    """A belief that is partly a network's has its errors; guidance within a part is guidance of the whole."""
    exact, learned = WORLD.denoiser(processes.VP()), network()
    assert not Parts((exact, exact)).trained
    assert Parts((exact, learned)).trained
    guided = guidance.classifier_free(exact, label=1, guidance_scale=3.0)
    assert guided.extrapolation == 5  # 2w − 1
    assert Parts((exact, guided)).extrapolation == 5
    assert denoisers.dirac(exact).extrapolation == 1


def test_conditions_are_given_by_mapping_or_by_name():
    """A name beside a mapping that has it too is the later word; nothing given is the same denoiser."""
    exact = WORLD.denoiser(processes.VP())
    x, t = torch.ones(3, 2, dtype=torch.float64), 0.5
    for given in (exact.given({"label": 0}, label=1), denoisers.dirac(exact).given(label=1)):
        torch.testing.assert_close(given(x, t).mean, exact.given({"label": 1})(x, t).mean)
    assert exact.given() is exact
    assert exact.given({}) is exact
    assert Parts((exact,)).given() is not None
    with pytest.raises(UserError, match=r"condition 'label' is not one this model takes \(no condition\)"):
        Parts((exact,)).given(label=1)


class Pinned(processes.VP):
    """A process that another stands for once its end is known."""

    def given(self, endpoint=None):
        return processes.EDM()


def test_the_end_is_the_process_s_and_the_rest_the_denoiser_s():
    """Both may be given at once, and neither is lost."""
    found = WORLD.denoiser(Pinned()).given(label=1, endpoint=torch.zeros(2))
    assert found.process == processes.EDM()
    x, t = torch.ones(3, 2, dtype=torch.float64), 0.5
    torch.testing.assert_close(found(x, t).mean, WORLD.denoiser(processes.EDM()).given(label=1)(x, t).mean)
    assert not torch.allclose(found(x, t).mean, WORLD.denoiser(processes.EDM())(x, t).mean)
