"""Features of a denoiser against what its layers are known to answer; heads on features whose classes are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import langevin
from langevin import Noise, UserError, processes
from langevin.distributions import Stream
from langevin.tasks import DiffusionFeatures, fit_classifier, fit_segmenter

VP = processes.VP()


class Halves(nn.Module):
    """Layers with known answers: means over 2×2 places, twice the input, and its places as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.AvgPool2d(2)
        self.up = nn.ModuleList([nn.Conv2d(1, 1, 1, bias=False)])
        self.blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.unused = nn.Identity()
        nn.init.constant_(self.up[0].weight, 2.0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.middle(x)
        self.blocks[1](self.blocks[0](x.flatten(2).transpose(1, 2)))
        return self.up[0](x)


def model(network: nn.Module | None = None) -> langevin.denoisers.Denoiser:
    return langevin.denoiser(network or Halves(), process=VP, prediction="eps", shape=(1, 4, 6), time="log_snr")


def pictures(n: int = 5) -> Tensor:
    return Noise(3, n).uniform((1, 4, 6)).float() * 2 - 1


def noised(x: Tensor, level: float, seed: int = 0) -> Tensor:
    """α x + σ ε written out: of a variance-preserving process α² = 1/(1 + level²)."""
    alpha = (1 + level**2) ** -0.5
    eps = Noise(seed, torch.zeros(len(x), dtype=torch.long)).fold_in(Stream.RAISED).normal((1, 4, 6)).float()
    return alpha * x + level * alpha * eps


def test_maps_are_what_the_layers_answer():
    """In float32: the noised picture is known to 1e-6 of its size, which is about 4."""
    x, levels = pictures(), (0.1, 0.7)
    (maps,) = DiffusionFeatures(model(), levels=levels).maps(x)
    want = []
    for level in levels:
        x_t = noised(x, level)
        small = F.avg_pool2d(x_t, 2)
        want += [F.interpolate(small, (4, 6), mode="bilinear", align_corners=False), 2 * x_t]
    torch.testing.assert_close(maps, torch.cat(want, 1), rtol=0, atol=2e-5)
    vectors = DiffusionFeatures(model(), levels=levels).vectors(x)
    torch.testing.assert_close(vectors[:, 1], 2 * noised(x, 0.1).mean((1, 2, 3)), rtol=0, atol=2e-5)
    assert vectors.shape == (5, 4)


def test_tokens_are_laid_out_as_the_picture_is():
    """A transformer's tokens run along the rows of the picture, 4 high and 6 wide."""
    x = pictures()
    (maps,) = DiffusionFeatures(model(), levels=(0.1,), layers=("blocks.1",)).maps(x)
    torch.testing.assert_close(maps, noised(x, 0.1), rtol=0, atol=1e-5)


def test_each_picture_by_itself():
    """The same for any batch and in any place of it, and nothing is left at the network."""
    network = Halves()
    whole = DiffusionFeatures(model(network)).vectors(pictures(7))
    last = DiffusionFeatures(model(network)).vectors(pictures(7)[5:])
    torch.testing.assert_close(last, whole[5:], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        DiffusionFeatures(model(network), batch=3).vectors(pictures(7)), whole, rtol=0, atol=1e-6
    )
    assert not any(module._forward_hooks for module in network.modules())
    assert not torch.allclose(DiffusionFeatures(model(network), seed=1).vectors(pictures(7)), whole)


def test_default_layers():
    unet = langevin.nn.create_network(
        {"name": "unet", "channels": 1, "size": (8, 8), "width": 8, "multipliers": (1, 2)}
    )
    made = langevin.denoiser(unet, process=VP, prediction="eps", shape=(1, 8, 8), time="log_snr")
    assert DiffusionFeatures(made).layers == ("middle", "up.0")
    dit = langevin.nn.create_network({"name": "dit", "channels": 1, "patch": 2, "width": 8, "depth": 4, "heads": 1})
    made = langevin.denoiser(dit, process=VP, prediction="eps", shape=(1, 8, 8), time="log_snr")
    found = DiffusionFeatures(made)
    assert found.layers == ("blocks.2", "blocks.3")
    (maps,) = found.maps(torch.zeros(2, 1, 8, 8))
    assert maps.shape == (2, 2 * 2 * 8, 8, 8)
    # The encoder of captions has blocks too, which are none of the picture's, and names that end alike.
    told = {"conditions": {"caption": 5}, "text": {"width": 8, "depth": 4, "heads": 1}}
    dit = langevin.nn.create_network({**dit.config, **told})
    made = langevin.denoiser(dit, process=VP, prediction="eps", shape=(1, 8, 8), time="log_snr")
    found = DiffusionFeatures(made)
    assert found.layers == ("blocks.2", "blocks.3")
    (maps,) = found.maps(torch.zeros(2, 1, 8, 8))
    assert maps.shape == (2, 2 * 2 * 8, 8, 8)


def test_heads_name_what_the_features_show():
    """Left half bright, right half dark or the other way round: both heads must name it from six pictures.

    At level 0.1 a pixel's noise is 0.1, and the halves are 1.6 apart: a pixel is misread by one in 10^15. Of the mean
    over a picture, bright ones differ from dark ones by 0.4 with a noise of 0.1/√24 = 0.02.
    """
    side = torch.arange(6).lt(3).expand(4, 6)
    shift = torch.tensor([0, 1] * 10)
    mask = torch.stack([side if not s else ~side for s in shift]).long()
    x = (mask.float() * 1.6 - 0.8)[:, None] + 0.2 * (2 * shift[:, None, None, None].float() - 1)
    x = x.clamp(-1, 1)
    features = DiffusionFeatures(model(), levels=(0.1,), layers=("up.0",), batch=4)
    segmenter = fit_segmenter(features, x[:6], mask[:6])
    assert torch.equal(segmenter(x[6:]), mask[6:])
    unlabelled = mask[:6].clone()
    unlabelled[:, :2] = -1
    assert torch.equal(fit_segmenter(features, x[:6], unlabelled)(x[6:]), mask[6:])
    bright = (shift.float() * 0.8 - 0.4)[:, None, None, None].expand(-1, 1, 4, 6)
    classifier = fit_classifier(features, bright[:6], shift[:6])
    assert torch.equal(classifier(bright[6:]), shift[6:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ()}, "levels must be noise levels"),
        ({"levels": (0.1, 0.1)}, "none twice"),
        ({"levels": 0.4}, "none twice, as"),
        ({"layers": "middle"}, "layers a list of names, got .* and 'middle'"),
        ({"levels": (1e9,)}, "levels"),
        ({"layers": ("midle",)}, "Did you mean 'middle'"),
        ({"layers": ("unused",)}, "unused answers neither planes"),
        ({"batch": 0}, "batch"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(UserError, match=message):
        DiffusionFeatures(model(), **settings).vectors(pictures())


def test_refuses_what_does_not_fit():
    world = langevin.worlds.ring()
    with pytest.raises(UserError, match="model must have a network"):
        DiffusionFeatures(world.denoiser(VP))
    features = DiffusionFeatures(model(), levels=(0.1,))
    with pytest.raises(UserError, match=r"mask must be integers of shape \(5, 4, 6\)"):
        fit_segmenter(features, pictures(), torch.zeros(5, 4, 5, dtype=torch.long))
    with pytest.raises(UserError, match="mask must hold at least two classes"):
        fit_segmenter(features, pictures(), torch.zeros(5, 4, 6, dtype=torch.long))
    with pytest.raises(UserError, match="label must be integers"):
        fit_classifier(features, pictures(), torch.zeros(5))
    with pytest.raises(UserError, match="x must have"):
        features.vectors(torch.zeros(2, 1, 8, 8))
    plain = nn.Sequential(nn.Identity())
    plain.forward = lambda x, time: x  # type: ignore[method-assign]
    with pytest.raises(UserError, match="layers must be named for this network"):
        DiffusionFeatures(model(plain))
