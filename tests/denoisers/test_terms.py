"""What a step adds up: a belief in the parts that are at hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import langevin
from langevin import processes, samplers
from langevin.denoisers import NetworkDenoiser, Reading
from langevin.distributions import scaled


class Net(nn.Module):
    """A fixed map with a parameter that says its dtype."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, label, condition=None):
        return torch.tanh(x * self.gain + 0.1)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow", "edm", "score"])
@pytest.mark.parametrize("process", [processes.VP(), processes.DDPM(), processes.SubVP()])
def test_terms_sum_to_the_blend(prediction, process):
    """a·x + b·E in any split; two roundings of numbers of size |a x| + |b E|."""
    denoiser = NetworkDenoiser(Net(), process, Reading(prediction), (3,))
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        belief = denoiser(x, 0.4)
        for a, b in ((0.0, 1.0), (1.7, -0.3), (2.0, 0.0)):
            total = sum(number * tensor for number, tensor in belief.terms(a, x, b))
            torch.testing.assert_close(total, a * x + b * belief.mean, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("process", [processes.VP(), processes.DDPM(), processes.SubVP()])
def test_what_a_network_predicts_is_taken_as_it_is(process):
    """ε of a network for ε, x_0 of one for x_0: the output itself, times a number that is 1 to rounding."""
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = torch.tensor(0.4, dtype=torch.float64)
    sigma, alpha = float(process.sigma(at)), float(process.alpha(at))
    with torch.no_grad():
        for prediction, (a, b) in {"eps": (1 / sigma, -alpha / sigma), "x0": (0.0, 1.0)}.items():
            belief = NetworkDenoiser(Net(), process, Reading(prediction), (3,))(x, at)
            ((number, tensor),) = belief.terms(a, x, b)
            assert abs(number - 1) < 1e-14
            assert tensor is belief.parts[2]


def test_a_step_keeps_no_more_than_it_uses():
    """2M adds up four tensors; DEIS on a network for ε keeps its outputs."""
    process = processes.DDPM()
    denoiser = NetworkDenoiser(Net(), process, Reading("eps", scale_input=False), (3,))
    start = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = samplers.grids.trailing(process, 6)
    with torch.no_grad():
        for sampler, parts in ((samplers.DPMSolverPP(), [2]), (samplers.DEIS(), [1, 1]), (samplers.UniPC(2), [1, 1])):
            *_, before, _ = langevin.trajectory(denoiser, sampler, grid=grid, start=start)
            assert [len(value) for value in before.memory.values] == parts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scaled_is_the_product(dtype):
    """To the bit, the first time and again; also when it was first asked for where gradients are not recorded."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    number = 0.1 + 1e-9 * torch.finfo(dtype).bits
    with torch.inference_mode():
        scaled(x, number)
    for _ in range(2):
        assert torch.equal(scaled(x, number), x * number)
    leaf = x.clone().requires_grad_()
    scaled(leaf, number).sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(x, number))
