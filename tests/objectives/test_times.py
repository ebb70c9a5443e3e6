"""Laws of t: their quantiles, their spread, and the unbiasedness of importance sampling."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from langevin import processes
from langevin._errors import UserError
from langevin.distributions import Noise
from langevin.objectives import Importance, Levels, LikelihoodImportance, LogNormal, Stratified, TableKnots, Uniform
from langevin.objectives.times import create_times

GRID = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000


def test_uniform() -> None:
    process = processes.VP()
    t = Uniform().quantile(process, GRID)
    assert t.min() > process.t_min
    assert t.max() < 1
    torch.testing.assert_close(t, process.t_min + (1 - process.t_min) * GRID)
    t = Uniform(0.2, 0.4).quantile(process, GRID)
    assert t.min() > 0.2
    assert t.max() < 0.4


def test_uniform_draws_by_sample() -> None:
    """u is uniform (Kolmogorov–Smirnov) and a function of (seed, draw, sample) alone."""
    u = Uniform().uniform(Noise(1, 20_000))
    gap = (torch.sort(u).values - (torch.arange(20_000) + 0.5) / 20_000).abs().max()
    assert gap < 1.95 / math.sqrt(20_000)  # P = 0.001
    part = Uniform().uniform(Noise(1, torch.tensor([77, 3])))
    assert part.tolist() == [u[77], u[3]]
    assert not torch.equal(Uniform().uniform(Noise(1, 4, draw=1)), u[:4])
    # Times and the noise of x_t are independent streams of one draw.
    z = Noise(1, 20_000).normal((1,))[:, 0]
    assert abs(float(torch.corrcoef(torch.stack((u, z)))[0, 1])) < 4 / math.sqrt(20_000)


def test_table() -> None:
    process = processes.DDPM()
    t = TableKnots().quantile(process, GRID)
    knots = process.knot(t)
    assert torch.equal(torch.bincount(knots), torch.tensor([0] + [40] * 1000))
    with pytest.raises(UserError, match="DDPM table"):
        TableKnots().check(processes.VP())


@pytest.mark.parametrize(
    "process", [processes.EDM(), processes.VP(), processes.RectifiedFlow()], ids=["edm", "vp", "flow"]
)
def test_log_normal(process: processes.ScalarGaussian) -> None:
    """ln(σ/α) has the truncated normal's distribution function, F(z) = (Φ(z) − Φ(a))/(Φ(b) − Φ(a))."""
    law = LogNormal()
    t = law.quantile(process, GRID)
    z = (-process.log_snr(t) / 2 + 1.2) / 1.2
    a, b = (-process.log_snr(torch.tensor([process.t_min, 1.0], dtype=torch.float64)) / 2 + 1.2) / 1.2
    phi = torch.special.ndtr
    # Bisection gives t to an ulp; ln(σ/α) then to 1e-16·dλ/dt/2, below 1e-9 for t >= 1e-3 away from t = 1.
    torch.testing.assert_close((phi(z) - phi(a)) / (phi(b) - phi(a)), GRID, rtol=0, atol=1e-9)
    assert float(t.min()) >= process.t_min
    if isinstance(process, processes.EDM):  # the cut is far out: the paper's own mean and spread
        log_sigma = torch.log(process.sigma(t))
        assert abs(float(log_sigma.mean()) + 1.2) < 1e-3
        assert abs(float(log_sigma.std()) - 1.2) < 1e-3


def test_stratified_spread() -> None:
    """Any 2ᵏ consecutive samples fall one into each of 2ᵏ equal parts, shifted; the first 2ᵏ are a grid."""
    law = Stratified()
    for first, size in [(0, 64), (1001, 64), (2**31 + 5, 128)]:
        u = law.uniform(Noise(9, torch.arange(first, first + size), draw=4))
        shift = law.uniform(Noise(9, torch.tensor([0]), draw=4))
        part = torch.floor((u - shift) % 1 * size).long()
        assert torch.equal(torch.sort(part).values, torch.arange(size))
    grid = torch.sort(law.uniform(Noise(9, 64, draw=4))).values
    torch.testing.assert_close(grid[1:] - grid[:-1], torch.full((63,), 1 / 64, dtype=torch.float64))
    gaps = torch.sort(law.uniform(Noise(9, torch.arange(7, 103)))).values.diff()  # any window, any size
    assert gaps.max() < 4 / 96


def test_stratified_is_by_sample_and_uniform() -> None:
    law = Stratified()
    whole = law.uniform(Noise(9, 64, draw=4))
    assert torch.equal(whole[10:20], law.uniform(Noise(9, torch.arange(10, 20), draw=4)))
    # Over draws, one sample's u is uniform.
    u = torch.cat([law.uniform(Noise(9, torch.tensor([5]), draw=d)) for d in range(4000)])
    gap = (torch.sort(u).values - (torch.arange(4000) + 0.5) / 4000).abs().max()
    assert gap < 1.95 / math.sqrt(4000)  # P = 0.001


def test_stratified_lowers_the_variance() -> None:
    """The mean of a smooth f over a batch of 64: (f(1) − f(0))²/12B² = 1.84e-5 instead of Var f/B = 1.03e-3."""
    f = lambda u: torch.exp(-3 * u)
    noises = [Noise(2, 64, draw=d) for d in range(200)]
    spread = lambda law: torch.stack([f(law.uniform(n)).mean() for n in noises]).var()
    # 200 draws know a variance to 10 %: five of those.
    assert float(spread(Stratified())) == pytest.approx(1.84e-5, rel=0.5)
    assert float(spread(Uniform())) == pytest.approx(1.03e-3, rel=0.5)


def steep(t: Tensor) -> Tensor:
    return 1 / t


def warmed(law: Importance, process: processes.Process) -> Importance:
    for draw in range(150):
        u = law.uniform(Noise(0, 64, draw=draw))
        law.observe(u, law.ratio(process, u) * steep(law.quantile(process, u)))
    assert law.warm
    return law


def test_importance_warms_up_first() -> None:
    law = Importance(bins=10, terms=10)
    process = processes.VP()
    assert torch.equal(law.ratio(process, GRID), torch.ones_like(GRID))
    torch.testing.assert_close(law.quantile(process, GRID), Uniform().quantile(process, GRID))
    law.observe(torch.full((500,), 0.05), torch.ones(500))
    assert not law.warm  # one bin has its terms, nine have none
    early = Importance(bins=2, terms=3)
    early.observe(torch.tensor([0.1, 0.1, 0.1, 0.9, 0.9]), torch.ones(5))
    assert not early.warm  # the second bin lacks one
    early.observe(torch.tensor([0.9]), torch.ones(1))
    assert early.warm
    law.observe(torch.full((2,), 0.95), torch.tensor([math.nan, math.inf]))
    assert law.history.count.tolist() == [500] + [0] * 9  # a loss that is no number is not remembered


def test_importance_keeps_the_last_terms() -> None:
    law = Importance(bins=2, terms=3)
    u = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9])
    law.observe(u, torch.tensor([100.0, 1.0, 2.0, 2.0, 4.0, 5.0, 5.0]))
    # The first loss is forgotten: sqrt((1 + 4 + 4)/3) = sqrt 3 and sqrt((16 + 25 + 25)/3) = sqrt 22.
    share = math.sqrt(3) / (math.sqrt(3) + math.sqrt(22))
    assert law.probabilities()[0] == pytest.approx(0.999 * share + 0.001 / 2, rel=1e-12)


@pytest.mark.parametrize(
    "base",
    [Uniform(), LogNormal(), TableKnots(), LikelihoodImportance()],
    ids=["uniform", "log-normal", "table", "likelihood"],
)
def test_importance_is_unbiased(base: object) -> None:
    """∫ ratio(u) f(t(u)) du is the expectation of f that the base law takes, whatever the history."""
    process = processes.DDPM() if isinstance(base, TableKnots) else processes.VP()
    law = warmed(Importance(base, bins=25), process)  # type: ignore[arg-type]
    assert law.probabilities().max() > 1.5 / 25  # it did learn
    for f in (torch.ones_like, steep, lambda t: torch.sin(9 * t)):
        weighted = (law.ratio(process, GRID) * f(law.quantile(process, GRID))).mean()
        plain = (base.ratio(process, GRID) * f(base.quantile(process, GRID))).mean()  # type: ignore[attr-defined]
        # Midpoint sums: a cell of 3e-5 at each of 25 (or, for a table, 1000) jumps, times a ratio < 25 and f < 1000.
        assert float(weighted) == pytest.approx(float(plain), rel=5e-3, abs=5e-3)


def test_importance_lowers_the_variance() -> None:
    process = processes.VP()
    law = warmed(Importance(bins=50), process)
    noise = Noise(11, 20_000)
    u = law.uniform(noise)
    importance = law.ratio(process, u) * steep(law.quantile(process, u))
    plain = steep(Uniform().quantile(process, u))
    assert importance.mean() == pytest.approx(float(plain.mean()), rel=0.1)
    assert importance.var() < plain.var() / 20


def test_importance_state_round_trip() -> None:
    process = processes.VP()
    law = warmed(Importance(bins=8), process)
    other = Importance(bins=8)
    other.restore(json.loads(json.dumps(law.state())))
    assert torch.equal(other.history.losses, law.history.losses)
    assert torch.equal(other.probabilities(), law.probabilities())
    other.observe(torch.tensor([0.3]), torch.tensor([2.0]))
    law.observe(torch.tensor([0.3]), torch.tensor([2.0]))
    assert torch.equal(other.probabilities(), law.probabilities())
    with pytest.raises(UserError, match="must be"):
        Importance(bins=9).restore(law.state())
    assert isinstance(Stratified(Importance(LogNormal())).for_validation(), Stratified)
    assert Stratified(Importance(LogNormal())).for_validation().to_dict()["of"]["name"] == "log-normal"


@pytest.mark.parametrize(
    "law",
    [
        Uniform(),
        Uniform(0.1, 0.9),
        LogNormal(-0.4, 1.0),
        TableKnots(),
        Stratified(LogNormal()),
        Importance(TableKnots(), 7),
        Levels(2.0, 0.1, 7),
        LikelihoodImportance(0.01),
    ],
    ids=lambda law: type(law).__name__,
)
def test_config_round_trip(law: object) -> None:
    config = json.loads(json.dumps(law.to_dict()))  # type: ignore[attr-defined]
    again = create_times(config)
    assert again.to_dict() == config
    assert type(again) is type(law)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'uniform'"):
        create_times("unifrom")
    with pytest.raises(UserError, match="law of t 'uniform'"):
        create_times({"name": "uniform", "lo": 0.1})
    with pytest.raises(UserError, match="low"):
        Uniform(0.0)
    with pytest.raises(UserError, match="low"):
        Uniform(0.5, 0.4)
    with pytest.raises(UserError, match="std"):
        LogNormal(std=0.0)
    with pytest.raises(UserError, match="bins"):
        Importance(bins=0)
    with pytest.raises(UserError, match="low, high must satisfy"):
        LikelihoodImportance(0.5, 0.4)
    with pytest.raises(UserError, match="finite log-SNR"):
        LikelihoodImportance(high=1.0).check(processes.RectifiedFlow())
    with pytest.raises(UserError, match="within the noise"):
        Levels(100.0, 0.1, 7).check(processes.VE())
    with pytest.raises(UserError, match="first, last"):
        Levels(0.1, 0.2)
    with pytest.raises(UserError, match="smallest time"):
        Uniform().check(processes.Absorbing(4))
