"""Networks read as laws of tokens: each head against its definition, and what the network is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from langevin import Noise, UserError, guidance, samplers, worlds
from langevin.denoisers import (
    AffineParameterization,
    NetworkDenoiser,
    Parameterization,
    TokenParameterization,
    independent,
)
from langevin.distributions import Categorical
from langevin.processes import VP, Absorbing, Chain, Uniform


class Fixed(nn.Module):
    """Returns the same outputs ``(C·n, *size)`` whatever it is shown, and keeps what it was shown."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = nn.Parameter(out)
        self.config = {"conditions": {"label": 3}}

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        self.seen, self.time = x, time
        shift = 0.0 if condition is None else condition["label"].reshape(-1, *[1] * self.out.ndim)
        return self.out.expand(len(x), *self.out.shape) + shift * torch.linspace(0, 1, len(self.out)).reshape(
            -1, *[1] * (self.out.ndim - 1)
        )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(chain: Chain, shape: tuple[int, ...], prediction: str, out: Tensor) -> NetworkDenoiser:
    return NetworkDenoiser(Fixed(out), chain, TokenParameterization(prediction), shape)


def test_a_sequence_is_shown_one_hot_and_its_time() -> None:
    """As many samples as states and places; the mask has a channel of its own."""
    denoiser = made(Absorbing(2), (3,), "logits", random(2, 3))
    x = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0]])
    belief = denoiser(x, torch.tensor([0.1, 0.5, 1.0]))
    shown = denoiser.network.seen
    assert shown.shape == (3, 3, 3)
    assert [[int(shown[b, :, i].argmax()) for i in range(3)] for b in range(3)] == x.tolist()
    assert (shown.sum(1) == 1).all()
    torch.testing.assert_close(denoiser.network.time, torch.tensor([100.0, 500.0, 1000.0]).double(), rtol=1e-6, atol=0)
    assert isinstance(belief, Categorical)
    torch.testing.assert_close(belief.probs[1], torch.softmax(denoiser.network.out, 0).T, rtol=0, atol=1e-15)
    assert denoiser.counter.calls == 1


def test_an_image_is_shown_channel_by_channel() -> None:
    chain, out = Uniform(3), random(6, 2, 4)
    denoiser = made(chain, (2, 2, 4), "logits", out)
    x = torch.randint(3, (5, 2, 2, 4), generator=torch.Generator().manual_seed(0))
    belief = denoiser(x, 0.5)
    shown = denoiser.network.seen.unflatten(1, (2, 3))
    assert torch.equal(shown.argmax(2), x)
    logits = out.unflatten(0, (2, 3)).movedim(1, -1)
    torch.testing.assert_close(belief.mean[4], torch.softmax(logits, -1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("chain", [Uniform(3), Uniform(3, "cosine"), Absorbing(3)], ids=repr)
def test_evidence_is_bayes_rule(chain: Chain) -> None:
    """b_k ∝ q(x_t | k)·softmax(y)_k, one position at a time in numbers; near t = 0 the state is believed."""
    out = random(3, 2)
    denoiser = made(chain, (2,), "evidence", out)
    x = torch.cartesian_prod(torch.arange(chain.states), torch.arange(chain.states))
    for t in (0.3, 0.9):
        belief = denoiser(x, t).mean
        table = chain.marginal(torch.arange(3)[:, None], t).probs[:, 0]
        for row, law in zip(x.tolist(), belief):
            for i, state in enumerate(row):
                weight = [math.exp(out[k, i]) * float(table[k, state]) for k in range(3)]
                torch.testing.assert_close(law[i], torch.tensor(weight).double() / sum(weight), rtol=1e-6, atol=1e-7)
    clean = torch.tensor([[0, 2]])
    near = denoiser(clean, 1e-6).mean.detach()
    assert float(near.gather(-1, clean[..., None]).min()) > 1 - 1e-4


def test_the_last_step_is_not_the_published_one() -> None:
    """Before s = 0 the step of ``evidence`` is the published Σ_k q(x_s, x_t | k) softmax(y)_k; the last one is not.

    There they draw from softmax(y) alone, and ours weighs it by q(x_t | x_0 = k), as docs/tokens.md says.
    """
    chain, out = Uniform(3), random(3, 1)
    denoiser, x = made(chain, (1,), "evidence", out), torch.tensor([[2]])
    own = torch.softmax(out[:, 0].double(), 0)

    def step(t: float, s: float) -> Tensor:
        law = chain.reverse(x, denoiser(x, t), t, s)
        assert isinstance(law, Categorical)
        return law.probs[0, 0].detach()

    def row(s: float, t: float) -> Tensor:
        return chain.transition(torch.arange(3)[:, None], s, t).probs[:, 0]

    published = row(0.3, 0.6)[:, 2] * (own @ row(0.0, 0.3))
    torch.testing.assert_close(step(0.6, 0.3), published / published.sum(), rtol=1e-6, atol=1e-7)
    load_network = own * row(0.0, 0.3)[:, 2]
    torch.testing.assert_close(step(0.3, 0.0), load_network / load_network.sum(), rtol=1e-6, atol=1e-7)
    assert float((step(0.3, 0.0) - own).abs().max()) > 0.05


def test_evidence_of_the_rest_makes_the_exact_belief() -> None:
    """Asked for what the other position says, p(x_0^i = k | x_t^{-i}), the belief is the posterior of a world."""
    chain = Uniform(3)
    probs = torch.softmax(random(9), 0).reshape(3, 3)
    world = worlds.TokenTable(probs)
    t, x = 0.4, torch.tensor([[0, 2]])
    table = chain.marginal(torch.arange(3)[:, None], t).probs[:, 0]
    first = (probs * table[:, 2]).sum(1)
    second = (probs * table[:, 0][:, None]).sum(0)
    denoiser = made(chain, (2,), "evidence", torch.stack((first, second), 1).log())
    exact = independent(world.denoiser(chain))(x, t).mean
    torch.testing.assert_close(denoiser(x, t).mean, exact, rtol=0, atol=1e-15)


def test_a_prompt_at_pure_noise_is_no_nan() -> None:
    denoiser = made(Absorbing(3), (2,), "evidence", random(3, 2))
    assert denoiser(torch.tensor([[0, 3]]), 1.0).mean.isfinite().all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_ordinal_is_a_logistic_law_in_bins(levels: int) -> None:
    """Differences of the logistic distribution's σ at the edges of a level's bin, over their sum; in numbers."""
    out = torch.stack((random(4) / 2, 1.5 * random(4, seed=1)))
    denoiser = made(Uniform(levels), (4,), "ordinal", out)
    x = torch.randint(levels, (3, 4), generator=torch.Generator().manual_seed(1))
    belief = denoiser(x, 0.7).mean
    value = lambda k: 2 * k / (levels - 1) - 1
    for b in range(3):
        for i in range(4):
            loc = math.tanh(value(int(x[b, i])) + float(out[0, i]))
            scale = math.exp(float(out[1, i]) - 2)
            below = lambda v, loc=loc, scale=scale: 1 / (1 + math.exp(-(v - loc) / scale))
            half = 1 / (levels - 1)
            mass = torch.tensor([below(value(k) + half) - below(value(k) - half) for k in range(levels)]).double()
            # values enter in float32, as the network is shown them
            torch.testing.assert_close(belief[b, i], mass / mass.sum(), rtol=1e-4, atol=1e-6)


def test_ordinal_is_finite_far_out() -> None:
    """A location at one end and the smallest scale: levels at the other end are e^{−2000} likely, and no nan."""
    out = torch.stack((torch.full((4,), 9.0), torch.full((4,), -50.0))).double().requires_grad_()
    denoiser = made(Uniform(256), (4,), "ordinal", out)
    belief = denoiser(torch.zeros(1, 4, dtype=torch.int64), 0.5)
    assert belief.mean.isfinite().all()
    (slope,) = torch.autograd.grad(torch.log(belief.mean[..., 255]).sum(), denoiser.network.out)
    assert slope.isfinite().all()


def test_ordinal_is_shown_values_and_the_mask() -> None:
    denoiser = made(Absorbing(5), (1, 1, 3), "ordinal", random(2, 1, 3))
    denoiser(torch.tensor([[[[0, 4, 5]]]]), 0.5)
    assert denoiser.network.seen[0, :, 0].tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_guidance_is_linear_in_the_logits() -> None:
    """One network call for both parts, log b = (1 − w) log b(−) + w log b(label)."""
    denoiser = made(Uniform(3), (2,), "evidence", random(3, 2))
    guided = guidance.classifier_free(denoiser, label=2, guidance_scale=3.0)
    x = torch.tensor([[0, 1], [2, 2]])
    none, given = (d(x, 0.5).mean for d in (denoiser.given(label=-1), denoiser.given(label=2)))
    expected = torch.softmax(-2 * none.log() + 3 * given.log(), -1)
    torch.testing.assert_close(guided(x, 0.5).mean, expected, rtol=0, atol=1e-14)
    assert len(denoiser.network.seen) == 4


def test_gradients_reach_the_network_through_the_reverse() -> None:
    denoiser = made(Uniform(3), (2,), "evidence", random(3, 2))
    x = torch.tensor([[0, 1]])
    law = denoiser.process.reverse(x, denoiser(x, 0.5), 0.5, 0.25)  # type: ignore[attr-defined]
    law.mean.square().sum().backward()
    assert denoiser.network.out.grad.abs().sum() > 0


def test_the_loop_samples_it() -> None:
    denoiser = made(Absorbing(3), (4,), "evidence", random(3, 4))
    x = samplers.sample(denoiser, noise=Noise(0, 6), steps=3)
    assert (x.shape, x.dtype) == ((6, 4), torch.int64)
    assert (x < 3).all()


def test_readings_are_readers() -> None:
    assert issubclass(TokenParameterization, Parameterization)
    assert issubclass(AffineParameterization, Parameterization)
    assert (TokenParameterization.kind, AffineParameterization.kind) == ("tokens", "denoiser")


REFUSED = [
    (lambda: TokenParameterization("logit"), "unknown prediction 'logit'. Did you mean 'logits'"),
    (lambda: TokenParameterization(time="index"), "time input must be 'time' for tokens, got 'index'"),
    (lambda: TokenParameterization(time="tim"), "unknown time input 'tim'"),
    (lambda: made(VP(), (2,), "logits", random(3, 2)), "needs a chain on tokens, got VP"),  # type: ignore[arg-type]
    (
        lambda: NetworkDenoiser(Fixed(random(3, 2)), Uniform(3), TokenParameterization(), (2,), variance="range"),
        "unknown variance 'range'",
    ),
    (lambda: made(Uniform(3), (2,), "logits", random(4, 2))(torch.zeros(1, 2).long(), 0.5), r"must return \(3, 2\)"),
    (
        lambda: made(Uniform(3), (2,), "logits", random(3, 2))(torch.zeros(1, 2), 0.5),
        r"x_t must hold int64 tokens in \[0, 3\), got torch.float32",
    ),
    (
        lambda: made(Uniform(3), (2,), "logits", random(3, 2))(torch.full((1, 2), 3), 0.5),
        r"x_t must hold int64 tokens in \[0, 3\), got 3",
    ),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_refusals(call: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()  # type: ignore[operator]
