"""The continuous ranked probability score."""

import math

import pytest
import torch

from langevin import Noise
from langevin._errors import UserError
from langevin.metrics import crps


def closed(mean: float, std: float, y: torch.Tensor) -> torch.Tensor:
    """Of a normal law: σ [z (2Φ(z) − 1) + 2φ(z) − 1/√π]."""
    z = (y - mean) / std
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("members", [2, 3, 20])
def test_normal_law(members: int) -> None:
    """The fair form has the law's own score as its mean, at two members too; the plain form is above by σ/(M√π)."""
    n, mean, std = 40_000, 0.3, 1.7
    y = torch.tensor([-1.0, 0.2, 0.3, 4.0], dtype=torch.float64)
    ensemble = mean + std * Noise(1, n).normal((members, 4)).movedim(1, 0)
    for fair, above in ((True, 0.0), (False, std / (members * math.sqrt(math.pi)))):
        for k in range(4):
            found = crps(ensemble[:, :, k], y[k].expand(n), fair=fair)
            error = float(found.std()) / math.sqrt(n)
            assert abs(float(found.mean()) - float(closed(mean, std, y[k])) - above) < 4.5 * error


def test_by_the_integral_of_the_step_function() -> None:
    """Three members and what came, by hand: ∫ (F − H)² over the pieces; the fair form adds Σ|x_i − x_j| back."""
    x, y = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([2.0])
    by_hand = (1 / 3) ** 2 * 1 + (2 / 3) ** 2 * 1 + (1 / 3) ** 2 * 2
    assert float(crps(x, y, fair=False)) == pytest.approx(by_hand, rel=1e-14)
    pairs = 2 * (1 + 4 + 3)
    assert float(crps(x, y)) == pytest.approx(by_hand + pairs / (2 * 9) - pairs / (2 * 6), rel=1e-14)


def test_parts_merge_and_shapes() -> None:
    x, y = torch.randn(5, 6, 2, 3), torch.randn(6, 2, 3)
    whole = crps(x, y)
    assert whole.shape == (6,)
    assert torch.equal(torch.cat([crps(x[:, :4], y[:4]), crps(x[:, 4:], y[4:])]), whole)
    torch.testing.assert_close(whole, crps(x.flatten(2), y.flatten(1)))
    assert float(crps(y.expand(4, -1, -1, -1), y).abs().max()) == 0


def test_near_members_do_not_cancel() -> None:
    """Members 1e-9 apart around 1e6: their spread is known to ten digits."""
    x = 1e6 + torch.tensor([[0.0], [1e-9], [2e-9]], dtype=torch.float64)
    step = float(x[2] - x[0])
    assert float(crps(x, x[1])) == pytest.approx(float((x - x[1]).abs().mean()) - step * 2 / 6, rel=1e-6, abs=0)


def test_torchmetrics() -> None:
    peer = pytest.importorskip("torchmetrics.functional.regression")
    x, y = torch.randn(7, 50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    other = float(peer.continuous_ranked_probability_score(x.T, y))
    assert float(crps(x, y, fair=False).mean()) == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize(
    ("ensemble", "observed", "words"),
    [
        (torch.zeros(1, 3), torch.zeros(3), "with M ≥ 2; got"),
        (torch.zeros(4, 3), torch.zeros(2), r"got \(4, 3\) and \(2,\)"),
        (torch.zeros(4, 0), torch.zeros(0), "N ≥ 1"),
        (torch.full((2, 3), torch.nan), torch.zeros(3), "ensemble holds 6 non-finite"),
        (torch.zeros(2, 3), torch.tensor([0.0, torch.inf, 0.0]), "observed holds 1 non-finite"),
    ],
)
def test_refusals(ensemble: torch.Tensor, observed: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        crps(ensemble, observed)
