"""What a network takes of memory, found without taking it: against sums by hand, and refused before it is taken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import langevin
from langevin import UserError, processes
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.denoisers.footprint import footprint
from langevin.storage import untrusted


class Chain(nn.Module):
    """Three maps with nothing between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor, label: Tensor, condition: object) -> Tensor:
        for each in self.maps:
            x = each(x)
        return x


def test_a_chain_of_maps_by_hand() -> None:
    """Without gradients the input of a map and its output live at once; with them all outputs do, until they are used.

    B·w numbers of 4 bytes an activation. Asked: one input is the batch itself, which is not counted, so two
    activations at most. Learning: three outputs and the sum; then the gradient of the sum (one number, expanded), and
    at the last map the gradients of its weights and of its input beside two outputs that are still kept: no fewer than
    three activations and no more than five and the three gradients of weights.
    """
    width, batch = 16, 1000
    one, weights = 4 * batch * width, 4 * 3 * width**2
    x, t = torch.empty(batch, width), torch.empty(batch)
    assert footprint(Chain(width), x, t) == 2 * one
    learning = footprint(Chain(width), x, t, learning=True)
    assert 3 * one <= learning <= 5 * one + weights + 64
    # Maps that do not learn have no gradients of weights, and the first two keep nothing for them.
    partly = Chain(width)
    partly.maps[:2].requires_grad_(False)
    assert footprint(partly, x, t, learning=True) < learning - 2 * weights / 3


def test_it_is_proportional_to_the_batch_and_takes_no_memory() -> None:
    """A batch of a million images of 64 × 64 is measured here, where it would take half a terabyte."""
    network = langevin.nn.create_network(langevin.nn.default((3, 64, 64), name="dit"))
    sizes = [footprint(network, torch.empty(n, 3, 64, 64, device="meta"), torch.empty(n)) for n in (1000, 1000_000)]
    assert sizes[1] > 2**38
    # What does not grow with the batch (positions of patches) is below a thousandth of a thousand images.
    assert sizes[1] / sizes[0] == pytest.approx(1000, rel=1e-3)


def test_attention_is_counted_as_the_fused_kernel_has_it() -> None:
    """Four times the pixels are four times the memory: with a table of all pairs it would be near sixteen."""
    network = langevin.nn.create_network(langevin.nn.default((3, 64, 64), name="dit", patch=1))
    sizes = [footprint(network, torch.empty(8, 3, n, n, device="meta"), torch.empty(8)) for n in (64, 128)]
    assert sizes[1] / sizes[0] == pytest.approx(4, rel=0.01)


def model(shape: tuple[int, ...] = (1, 256, 256)) -> NetworkDenoiser:
    network = langevin.nn.create_network(langevin.nn.default(shape, multipliers=[1, 1], attention=[shape[-1]]))
    return NetworkDenoiser(network, processes.EDM(), AffineParameterization("edm", 0.5), shape)


def test_a_batch_larger_than_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = model()
    monkeypatch.setattr(untrusted, "memory", lambda: 2**24)
    with torch.no_grad(), pytest.raises(UserError, match=r"3 × \(1, 256, 256\) in the network would take .* MiB .* 14"):
        denoiser(torch.zeros(3, 1, 256, 256), 0.5)
    with pytest.raises(UserError, match=r"in the network with its gradients would take .* MiB .* 14\.4 MiB"):
        denoiser.check_memory(1, learning=True)
    with pytest.raises(UserError, match=r"in the network would take"):
        langevin.sample(denoiser, n=1, steps=2)


def test_what_fits_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = footprint
    monkeypatch.setattr("langevin.denoisers.network.footprint", lambda *a, **k: calls.append(a) or real(*a, **k))
    monkeypatch.setattr("langevin.denoisers.network.FREE", 64 * 10)
    denoiser = model((1, 8, 8))
    big, small = torch.zeros(12, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    with torch.no_grad():
        for x in (small, big, big, small):
            denoiser(x, 0.5)
    assert len(calls) == 1


@pytest.mark.parametrize("each", [False, True], ids=["one-for-all", "one-each"])
def test_it_is_measured_with_what_the_network_is_told(each: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption for all or one each, alone and in a guided batch of twice the samples, when the batch is first seen."""
    monkeypatch.setattr("langevin.denoisers.network.FREE", 0)
    told = {"conditions": {"caption": 5, "label": 3}, "text": {"width": 8, "depth": 1, "heads": 1}}
    caption = torch.tensor([[104, 105, 256, -1, -1]]).expand(4 if each else 1, -1)
    plain = langevin.nn.create_network(langevin.nn.default((1, 8, 8), multipliers=[1, 1], attention=[4], **told))
    for guided in (False, True):
        network = copy.deepcopy(plain)  # another one, of which no batch is known to fit
        denoiser = NetworkDenoiser(network, processes.EDM(), AffineParameterization("edm", 0.5), (1, 8, 8))
        belief = denoiser.given(caption=caption, label=1)
        if guided:
            belief = langevin.guidance.classifier_free(denoiser, caption=caption, label=1, guidance_scale=2.0)
        with torch.no_grad():
            assert belief(torch.zeros(4, 1, 8, 8), 0.5).mean.shape == (4, 1, 8, 8)


def test_a_network_of_somebody_else_is_called_no_more_often_than_it_is_asked() -> None:
    class Own(nn.Module):
        calls = 0
        config = "as networks of diffusers have one, too"

        def __init__(self) -> None:
            super().__init__()
            self.offset = torch.zeros(1, 512, 512)  # neither parameter nor buffer: it has content and a device

        def forward(self, x: Tensor, label: Tensor, condition: object) -> Tensor:
            self.calls += 1
            return x + self.offset

    own = Own()
    with torch.no_grad():
        NetworkDenoiser(own, processes.EDM(), AffineParameterization("edm", 0.5), (1, 512, 512))(
            torch.zeros(2, 1, 512, 512), 0.5
        )
    assert own.calls == 1
