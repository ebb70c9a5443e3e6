"""Processes as plain JSON, and the one helper that lets times meet events."""

from __future__ import annotations

import json

import pytest
import torch

from langevin import UserError, processes
from langevin._registry import methods
from langevin.processes import as_time, create_process, expand

MADE = [
    processes.VP(0.2, 15.0),
    processes.SubVP(0.2, 15.0),
    processes.VE(0.02, 30.0),
    processes.EDM(0.01, 40.0),
    processes.RectifiedFlow(),
    processes.Cosine(0.01),
    processes.DDPM([0.1, 0.2, 0.3]),
    processes.DDPM(processes.cosine_betas(10)),
    processes.Learned([-9.0, -4.0, 3.0]),
    processes.Absorbing(5, "cosine"),
    processes.Uniform(4, "mutual-information"),
    processes.DiscretisedGaussian(5, 7, 0.2, 15.0),
    processes.Neighbours(4, [[0.0], [1.0], [3.0], [4.5]], 2),
    processes.FiniteChain(torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]), 1),
    processes.PhaseSpace(4.0, 0.1),
    processes.GammaNoise(processes.VE(0.02, 3.0), 0.5),
    processes.MixtureNoise(processes.VE(0.02, 3.0), 0.3, 0.2, 5.0),
]


@pytest.mark.parametrize("process", MADE, ids=lambda p: type(p).__name__)
def test_round_trip(process):
    """``create_process(to_dict())`` through JSON is the same process, with settings that are not the defaults."""
    config = json.loads(json.dumps(process.to_dict()))
    again = create_process(config)
    assert type(again) is type(process)
    assert again.to_dict() == process.to_dict()
    if isinstance(process, processes.FiniteChain):
        assert torch.equal(again.transitions, process.transitions)
        assert again.classes == 1
    elif isinstance(process, processes.Neighbours):
        assert torch.equal(again.generator, process.generator)
    else:
        assert again == process
        assert hash(again) == hash(process)


def test_every_registered_process_is_above():
    assert {m.make for m in methods("processes")} == {type(p) for p in MADE}


def test_names_alone_give_the_defaults():
    assert create_process("vp") == processes.VP()
    assert create_process("gamma") == processes.GammaNoise()
    assert create_process({"name": "ddpm"}) == processes.DDPM()


def test_a_process_nobody_registered_says_so():
    class Own(processes.VP):
        pass

    with pytest.raises(UserError, match="Own is not registered"):
        Own().to_dict()


REFUSED = [
    ("vpp", "unknown process 'vpp'. Did you mean 'vp'?"),
    ({"beta_min": 1.0}, "unknown process 'None'"),
    ({"name": "vp", "beta": 1.0}, "process 'vp' has no 'beta'. Did you mean 'beta_min'"),
    ({"name": "vp", "beta_min": "a"}, "process 'vp'.beta_min must be a number, got 'a'"),
    ({"name": "vp", "beta_min": -1.0}, "beta_min, beta_max must satisfy"),
    ({"name": "absorbing"}, "process 'absorbing' needs classes, which must be given"),
    ({"name": "gamma", "base": {"name": "nope"}}, "unknown process 'nope'"),
    ({"name": "gamma", "base": 3}, "process must be a name or a mapping"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refusals(config, message):
    with pytest.raises(UserError, match=message):
        create_process(config)


def test_as_time():
    assert as_time(0).dtype == as_time(torch.tensor(0.5)).dtype == torch.float64
    assert as_time(1.0).shape == ()
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    assert as_time(t) is t
    for bad in (-1e-9, 1 + 1e-9, float("nan"), float("inf")):
        with pytest.raises(UserError, match="t must be a time in"):
            as_time(bad)


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3), (3, 1, 3, 3), (3,)])
def test_expand_along_the_batch_alone(shape):
    """A batch whose size equals every width: the coefficient of a sample multiplies that sample."""
    c = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x = torch.ones(shape, dtype=torch.float64)
    product = expand(c, x) * x
    for i in range(3):
        assert (product[i] == c[i]).all()
    assert (expand(c[0], x) * x == 1).all()
    assert (expand(c[1:2], x) * x == 2).all()
    assert expand(c[0], x).ndim == 0


def test_expand_takes_the_dtype_of_floats():
    c = torch.tensor([0.1], dtype=torch.float64)
    assert expand(c, torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert expand(c, torch.ones(1, 2, dtype=torch.int64)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3)])
def test_expand_refuses_what_is_not_one_a_sample(shape):
    with pytest.raises(UserError, match=r"t must have shape \(\) or \(3,\) for a batch of 3"):
        expand(torch.zeros(shape), torch.zeros(3, 3))
