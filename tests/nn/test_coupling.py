"""CouplingFlow: inverse, determinant and density against closed forms, quadrature and Jacobians in float64."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F

from langevin import UserError
from langevin.nn import CouplingFlow
from langevin.nn.coupling import BOUND, splits

EPS = torch.finfo(torch.float64).eps


def awake(channels, size=0.15, **options):
    """A flow that is no longer the identity: every parameter moved by the same seeded noise."""
    torch.manual_seed(0)
    flow = CouplingFlow(channels, **{"width": 16, "depth": 6} | options).double()
    for p in flow.parameters():
        p.data += size * torch.randn_like(p)
    return flow


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def points(batch, channels, seed=1):
    return torch.randn(batch, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def jacobians(flow, x, condition=None):
    """∂z/∂x of each point alone, so nothing can pass from one sample to another unseen."""
    condition = condition or {}
    rows = ({k: v[i : i + 1] for k, v in condition.items()} for i in range(len(x)))
    one = lambda y, row: flow(y[None], row)[0][0]
    return torch.stack(
        [torch.autograd.functional.jacobian(lambda y, row=row: one(y, row), p) for p, row in zip(x, rows)]
    )


CONDITIONS = {"label": 3, "vector": 2}


def conditions(batch):
    """Labels 0, 1, 2 and none; vectors of which the last is none."""
    vector = points(batch, 2, seed=2)
    vector[-1] = math.nan
    return {"label": torch.arange(batch) % 4 - 1, "vector": vector}


@pytest.mark.parametrize("channels", [2, 3, 5, 8])
@pytest.mark.parametrize("told", [False, True], ids=["alone", "conditional"])
def test_inverse_and_determinant(channels, told):
    """inverse(forward(x)) is x, and log_det that of the Jacobian.

    Rounding: each of the ``depth`` couplings and the scaling rounds a coordinate four times a direction (exp, product,
    sum, and the coefficients' own), relative to the largest number on the way; on the way back an error in z is
    stretched by ‖∂x/∂z‖, an error between the couplings by no more than the two condition numbers together. The
    determinant of a D×D matrix by LU errs by about D·eps·cond.
    """
    flow = awake(channels, conditions=CONDITIONS if told else {})
    x = points(8, channels)
    condition = conditions(8) if told else None
    with torch.no_grad():
        z, log_det = flow(x, condition)
        back = flow.inverse(z, condition)
    matrices = jacobians(flow, x, condition)
    cond = torch.linalg.cond(matrices).max()
    assert (z - x).abs().max() > 0.5  # it does something
    assert (back - x).abs().max() <= 8 * 7 * EPS * cond * max(x.abs().max(), z.abs().max())
    sign, truth = torch.linalg.slogdet(matrices)
    assert torch.equal(sign, torch.ones(8, dtype=torch.float64))
    assert (log_det - truth).abs().max() <= (channels + 8 * 7) * EPS * cond
    assert log_det.std() > 0.05
    base = torch.distributions.MultivariateNormal(z.new_zeros(channels), torch.eye(channels, dtype=z.dtype))
    assert torch.allclose(flow.log_prob(x, condition), base.log_prob(z) + truth, rtol=0, atol=1e-12)


def test_forward_undoes_inverse():
    """The other order, from the base: what sampling is."""
    flow, z = awake(4), points(64, 4)
    assert torch.allclose(flow(flow.inverse(z))[0], z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("label", [None, -1, 0, 2])
def test_density_integrates_to_one(label):
    """By the trapezoidal rule on the plane, whose error falls exponentially in the step for a smooth density.

    The box holds the image of the disc |z| ≤ 7 (the image of its edge goes round it), so what lies outside it has a
    probability of e^(−49/2) = 2.3e-11 at most. The error of the rule is below its change when every second point is
    left out.
    """
    flow = awake(2, conditions={} if label is None else {"label": 3})
    tell = lambda n: None if label is None else {"label": torch.full((n,), label)}
    angle = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    with torch.no_grad():
        edge = flow.inverse(7 * torch.stack([angle.cos(), angle.sin()], 1), tell(721))
        axes = [torch.linspace(a - 1, b + 1, 201, dtype=torch.float64) for a, b in zip(edge.amin(0), edge.amax(0))]
        grid = torch.cartesian_prod(*axes)
        density = flow.log_prob(grid, tell(len(grid))).exp().reshape(201, 201)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    fine, coarse = density.sum() * cell, density[::2, ::2].sum() * 4 * cell
    assert (coarse - fine).abs() < 1e-6
    assert (fine - 1).abs() <= (coarse - fine).abs() + 2.3e-11 + 201**2 * EPS


def one_coupling():
    """Two couplings of which the first alone does something; the second has a zero last layer, as when new."""
    flow = CouplingFlow(2, width=1, depth=2, hidden=1).double()
    inner, _, outer = flow.couplings[0].network
    inner.weight.data[:], inner.bias.data[:] = 0.7, -0.2
    outer.weight.data[:], outer.bias.data[:] = double([[5.0], [1.5]]), double([-1.0, 0.4])
    flow.shift.data[:], flow.log_scale.data[:] = double([0.3, -0.6]), double([0.2, -0.5])
    return flow


def test_one_coupling_is_its_closed_form():
    """x = (m₁ + e^a₁ z₁, m₂ + e^a₂ (z₂ − t)/e^s): a normal coordinate, and one that is normal given the first."""
    flow, x = one_coupling(), points(50, 2)
    u = (x[:, 0] - 0.3) * math.exp(-0.2)
    h = F.silu(0.7 * u - 0.2)
    s, t = 2 * torch.tanh((5 * h - 1) / 2), 1.5 * h + 0.4
    assert s.abs().max() > 1  # where the bound is felt
    first = torch.distributions.Normal(double(0.3), double(0.2).exp()).log_prob(x[:, 0])
    std = math.exp(-0.5) / s.exp()
    second = torch.distributions.Normal(-0.6 - t * std, std).log_prob(x[:, 1])
    z, log_det = flow(x)
    assert torch.allclose(z[:, 0], u, rtol=0, atol=1e-14)
    assert torch.allclose(z[:, 1], (x[:, 1] + 0.6) * math.exp(0.5) * s.exp() + t, rtol=0, atol=1e-13)
    assert torch.allclose(log_det, s - 0.2 + 0.5, rtol=0, atol=1e-14)
    assert torch.allclose(flow.log_prob(x), first + second, rtol=0, atol=1e-12)


def test_conditional_closed_form():
    """With the point itself cut off, the law given label and vector is normal, its mean and scale read from both."""
    torch.manual_seed(0)
    flow = CouplingFlow(2, width=3, depth=2, hidden=1, conditions=CONDITIONS).double()
    networks = [coupling.network for coupling in flow.couplings]
    for network in networks:
        network[0].weight.data[:, 0] = 0  # the point
        network[2].weight.data[:] = torch.randn(2, 3)
    told, x, vector = flow.conditioning, points(6, 2), points(6, 2, seed=2)
    told.no_vector.data[:] = torch.randn(3)
    e = told.label.weight[[0, 1, 2, 3, 0, 0]] + vector @ told.vector_in.weight.T + told.vector_in.bias
    vector[5] = math.nan
    e = F.silu(torch.cat([e[:5], told.label.weight[:1] + told.no_vector]))
    out = [network[2](F.silu(e @ network[0].weight[:, 1:].T + network[0].bias)) for network in networks]
    # The first coupling changes the second coordinate, the second one the first.
    log_scale, shift = (torch.stack([out[1][:, i], out[0][:, i]], 1) for i in (0, 1))
    std = torch.exp(-BOUND * torch.tanh(log_scale / BOUND))
    truth = torch.distributions.Normal(-shift * std, std).log_prob(x).sum(1)
    condition = {"label": double([0, 1, 2, -1, 0, 0]).long(), "vector": vector}
    assert torch.allclose(flow.log_prob(x, condition), truth, rtol=0, atol=1e-12)
    assert torch.pdist(shift).min() > 1e-2


@pytest.mark.parametrize("key", ["label", "vector"])
def test_absence_is_exact_by_sample(key):
    """An absent condition is as a missing key; the samples beside it do not notice."""
    flow, x = awake(3, conditions=CONDITIONS), points(4, 3)
    full = {"label": torch.tensor([0, 1, 2, 1]), "vector": points(4, 2, seed=2)}
    some = full[key].clone()
    some[[1, 3]] = -1 if key == "label" else math.nan
    given = flow.log_prob(x, full)
    without = flow.log_prob(x, {k: v for k, v in full.items() if k != key})
    mixed = flow.log_prob(x, full | {key: some})
    assert torch.allclose(mixed[[1, 3]], without[[1, 3]], rtol=0, atol=1e-12)
    assert torch.allclose(mixed[[0, 2]], given[[0, 2]], rtol=0, atol=1e-12)
    assert (given - without).abs().min() > 1e-3


def test_absence_has_a_gradient_of_its_own():
    """Nothing of what is absent reaches a gradient, and every parameter has one where it is used."""
    flow, x = awake(3, conditions=CONDITIONS), points(4, 3)
    full = {"label": torch.tensor([0, 1, 2, 1]), "vector": points(4, 2, seed=2)}
    absent = {"label": torch.full((4,), -1), "vector": torch.full((4, 2), math.nan)}
    flow.log_prob(x, absent).sum().backward()
    told = flow.conditioning
    assert told.vector_in.weight.grad.abs().sum() == 0
    assert told.label.weight.grad[:-1].abs().sum() == 0
    flow.log_prob(x, full).sum().backward()
    assert [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad.isfinite().all() for p in flow.parameters())


@pytest.mark.parametrize("channels", [2, 3, 4, 7, 16])
def test_every_coordinate_is_changed_by_every_other(channels):
    """A pair changes each coordinate once; all pairs of indices are split after 2 ⌈log₂ D⌉ couplings, not before."""
    rounds = 2 * math.ceil(math.log2(channels))
    made = list(splits(channels, rounds))
    for kept, changed in made:
        assert kept
        assert changed
        assert sorted(kept + changed) == list(range(channels))
    for first, second in zip(made[::2], made[1::2]):
        assert first == second[::-1]
    pairs = {(i, j) for kept, changed in made for i in kept for j in changed}
    assert len(pairs) == channels * (channels - 1)
    matrix = jacobians(awake(channels, depth=rounds), points(1, channels))[0]
    off = matrix[~torch.eye(channels, dtype=torch.bool)]
    assert off.abs().min() > 0
    assert (matrix.diagonal() != 1).all()


@pytest.mark.parametrize("told", [False, True])
def test_untrained_flow_is_the_identity(told):
    flow, x = CouplingFlow(3, width=8, depth=4, conditions=CONDITIONS if told else {}), points(4, 3).float()
    condition = conditions(4) if told else None
    z, log_det = flow(x, condition)
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros(4))
    assert torch.equal(flow.inverse(x, condition), x)


def test_scales_are_bounded():
    """However large the weights, a coupling stretches by e^2 at most, and slopes stay those of a smooth function."""
    flow, x = awake(2, 1e3, depth=2), points(100, 2)
    flow.log_scale.data.zero_()
    log_det = flow(x)[1]
    assert (log_det.abs() <= 2 * BOUND).all()
    assert log_det.isfinite().all()


def test_dtypes():
    """Everything but the networks in the dtype of the point: a float32 flow inverts to the digits of a float64 point.

    A kept coordinate that comes back in another last digit of float64 is, but for a chance of 1e-8, the same float32.
    """
    flow, x = awake(3).float(), points(32, 3)
    with torch.no_grad():
        z, log_det = flow(x)
        assert z.dtype == log_det.dtype == flow.log_prob(x).dtype == torch.float64
        assert (flow.inverse(z) - x).abs().max() < 1e-12
        for low in (torch.float32, torch.bfloat16, torch.float16):
            assert all(out.dtype == torch.float32 for out in (*flow(x.to(low)), flow.inverse(x.to(low))))
        truth, single = flow.double().log_prob(x.float().double()), flow.float().log_prob(x.float())
        # 6 couplings and the scaling, magnified by slopes that the flow above shows to be of the order of ten.
        assert (single - truth).abs().max() < 7 * 10 * 2**-24 * truth.abs().max()
        with torch.autocast("cpu", torch.bfloat16):
            mixed = flow.log_prob(x.float())
        assert mixed.dtype == torch.float32


def test_without_content():
    """On the meta device, as memory is estimated."""
    with torch.device("meta"):
        flow = CouplingFlow(5, width=8, depth=3, conditions=CONDITIONS)
        x, label = torch.empty(4, 5), torch.empty(4, dtype=torch.int64)
        assert flow.log_prob(x, {"label": label}).shape == (4,)
        assert flow.inverse(x).shape == (4, 5)
    assert flow.computes_only


def test_config_is_json_and_makes_the_same_flow():
    flow, x = awake(5, conditions=CONDITIONS), points(4, 5)
    config = json.loads(json.dumps(flow.config))
    assert config.pop("name") == "coupling"
    again = CouplingFlow(**config).double()
    assert set(flow.state_dict()) == {n for n, _ in flow.named_parameters()}  # the splits follow from the options
    again.load_state_dict(flow.state_dict())
    assert again.config == flow.config
    assert torch.equal(again.log_prob(x, conditions(4)), flow.log_prob(x, conditions(4)))
    assert flow.conditions == CONDITIONS
    assert CouplingFlow(2).conditions == {}
    assert "M parameters, channels=5" in repr(flow)


def test_samples_do_not_see_each_other():
    """As many samples as coordinates: nothing broadcasts along them."""
    flow, x, condition = awake(5, conditions=CONDITIONS), points(5, 5), conditions(5)
    whole, back = flow.log_prob(x, condition), flow.inverse(x, condition)
    for i in range(5):
        row = {k: v[i : i + 1] for k, v in condition.items()}
        assert torch.allclose(flow.log_prob(x[i : i + 1], row), whole[i], rtol=0, atol=1e-12)
        assert torch.allclose(flow.inverse(x[i : i + 1], row)[0], back[i], rtol=0, atol=1e-12)
    assert flow.log_prob(x[:0]).shape == (0,)


def test_maximum_likelihood_reaches_the_entropy():
    r"""Fitted to a correlated normal law in the plane, −E_p[log q] comes down to the entropy of p.

    The excess is KL(p ‖ q), measured without chance by quadrature over p. Of n fresh points a maximum-likelihood
    estimate of k parameters has an expected KL of k/(2n) (Wilks); Adam is no estimator of all n points, and its last
    steps are a noise of their own: a factor of four.
    """
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    root = torch.tensor([[1.5, 0.0], [-1.2, 0.6]], dtype=torch.float64)
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    flow = CouplingFlow(2, width=8, depth=4, hidden=1)
    steps, batch = 600, 256
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = mean + torch.randn(batch, 2, generator=g, dtype=torch.float64) @ root.T
        optimizer.zero_grad()
        (-flow.log_prob(x.float()).mean()).backward()
        optimizer.step()
        schedule.step()
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 121, dtype=torch.float64)] * 2)
    weight = torch.softmax(-grid.square().sum(1) / 2, 0)
    entropy = 1 + math.log(2 * math.pi) + torch.linalg.slogdet(root)[1]
    with torch.no_grad():
        cross = -(weight * flow.double().log_prob(mean + grid @ root.T)).sum()
    tolerance = 4 * sum(p.numel() for p in flow.parameters()) / (2 * steps * batch)
    assert -1e-6 < cross - entropy < tolerance  # −1e-6: what lies beyond six standard deviations


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 1}, "channels must be an integer from 2 to 100000, got 1"),
        ({"channels": 2.0}, "channels must be an integer .* got 2.0"),
        ({"width": 0}, "width must be an integer from 1 to 16384, got 0"),
        ({"depth": 1}, "depth must be an integer from 2 to 256, got 1"),
        ({"depth": True}, "depth must be .* got True"),
        ({"hidden": 0}, "hidden must be an integer from 1 to 16, got 0"),
        ({"conditions": {"lable": 3}}, r"unknown condition 'lable'. Did you mean 'label'\?"),
        ({"conditions": {"sequence": 3}}, "unknown condition 'sequence'. Known: label, vector"),
        ({"conditions": {"label": -1}}, "conditions.label must be an integer from 0 to 1000000, got -1"),
        ({"conditions": {"vector": "2"}}, "conditions.vector must be an integer .* got '2'"),
        ({"conditions": ["label"]}, r"conditions must be a mapping such as .* got \['label'\]"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(UserError, match=says):
        CouplingFlow(**options)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(3), r"{} must be real numbers of shape \(B, 3\), got \(3,\)"),
        (torch.zeros(4, 2), r"{} must be real numbers of shape \(B, 3\), got \(4, 2\)"),
        (torch.zeros(4, 3, 1), r"{} must be real numbers"),
        (torch.zeros(4, 3, dtype=torch.int64), r"{} must be real numbers .* torch.int64"),
        ([[0.0, 0.0, 0.0]], r"{} must be a tensor of shape \(B, 3\)"),
    ],
)
def test_bad_points(x, says):
    flow = CouplingFlow(3, width=4, depth=2)
    for ask, name in ((flow, "x"), (flow.log_prob, "x"), (flow.inverse, "z")):
        with pytest.raises(UserError, match=says.format(name)):
            ask(x)


def test_bad_shape():
    flow = CouplingFlow(3, width=4, depth=2)
    flow.check_shape((3,))
    with pytest.raises(UserError, match=r"shape must be \(3,\) for this flow, a point, got \(1, 3\)"):
        flow.check_shape((1, 3))


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"lable": torch.zeros(2)}, "unknown condition 'lable'. Did you mean 'label'"),
        ({"label": torch.zeros(2)}, "condition 'label' must be integers of shape (2), got (2,) torch.float32"),
        ({"label": torch.zeros(3, dtype=torch.int64)}, "condition 'label' must be integers of shape (2), got (3,)"),
        ({"vector": torch.zeros(2, 3)}, "condition 'vector' must be real numbers of shape (2, 2), got (2, 3)"),
    ],
)
def test_bad_conditions(condition, says):
    flow, x = CouplingFlow(3, width=4, depth=2, conditions=CONDITIONS), torch.zeros(2, 3)
    for ask in (flow.log_prob, flow.inverse):
        with pytest.raises(UserError, match=re.escape(says)):
            ask(x, condition)


def test_bad_values_of_conditions():
    flow = CouplingFlow(3, width=4, depth=2, conditions=CONDITIONS)
    flow.check_condition(conditions(4), 4)
    with pytest.raises(UserError, match=re.escape("label must lie in [0, 3) (-1 is none), got [3]")):
        flow.check_condition({"label": torch.tensor([0, 3])}, 2)
    with pytest.raises(UserError, match="condition 'vector' is partly not-a-number"):
        flow.check_condition({"vector": torch.tensor([[0.0, math.nan]])}, 1)
    plain = CouplingFlow(3, width=4, depth=2)
    plain.check_condition({}, 1)
    for ask in (lambda c: plain.check_condition(c, 1), lambda c: plain.log_prob(torch.zeros(1, 3), c)):
        with pytest.raises(UserError, match="condition 'label' was given to a flow that takes none"):
            ask({"label": torch.zeros(1, dtype=torch.int64)})
