"""What a learned noise schedule is good for: the spread of the estimated bound, under a straight line and learned.

Run: python benchmarks/schedule.py MODEL...

The models are trained with --process.name learned --objective.name vdm.
"""

from __future__ import annotations

import sys

import torch

import langevin
from langevin import Noise, data, likelihood
from langevin.denoisers import Denoiser, NetworkDenoiser, convert
from langevin.objectives import Stratified, Uniform
from langevin.processes import Learned, ScalarGaussian

BATCH, DRAWS = 128, 40


@torch.no_grad()
def estimates(denoiser: Denoiser, process: ScalarGaussian, x: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
    """The diffusion term in nats a dimension, ``(DRAWS, BATCH)``: batches of data, each with noise and times."""
    asked, found = convert(denoiser, process), []
    for draw in range(DRAWS):
        rows = torch.randint(len(x), (BATCH,), generator=torch.Generator().manual_seed(draw))
        noise, x0 = Noise(1, BATCH, draw=draw), x[rows].double()
        t = Stratified(Uniform()).quantile(process, Stratified().uniform(noise))
        some = asked if label is None else asked.given(label=label[rows])
        error = (some(process.marginal(x0, t).sample(noise), t).mean - x0).square().flatten(1).mean(1)
        log_snr = process.log_snr(t)
        found.append(-process.rate(process.log_snr, t) * log_snr.exp() * error / 2)
    return torch.stack(found)


def main(paths: list[str]) -> None:
    """A table, a line a model and schedule."""
    print(f"{'model':24} {'schedule':10} {'bound, bits/dim':>18} {'sd of a sample':>16} {f'sd of {BATCH}':>10}")
    for path in paths:
        model = langevin.load(path, device="cpu")
        assert isinstance(model, NetworkDenoiser)
        learned = model.process
        assert isinstance(learned, Learned)
        source = dict(model.data.source)
        held = data.load(source.pop("source"), **source).test
        x, label = held.all()["x"], held.labels if "label" in model.conditions() else None
        for name, process in (("line", Learned((learned.gamma[0], learned.gamma[-1]))), ("learned", learned)):
            found = estimates(model, process, x, label)
            some = x[:512]
            bound = model if label is None else model.given(label=label[:512])
            bits = likelihood.vdm_bound(convert(bound, process), some, nodes=64).bits_per_dim.mean()
            sample, batch = float(found.std()), float(found.mean(1).std())
            print(f"{path:24} {name:10} {float(bits):18.4f} {sample:16.4f} {batch:10.4f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
