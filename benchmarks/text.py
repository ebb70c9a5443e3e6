"""Bits a character of token diffusion on held-out English, beside an n-gram and an autoregressive transformer.

    python benchmarks/text.py [--steps 800] [--batch 64] [--rows 2048] [--draws 16] [--out runs/text]

Rows of 32 characters of `words`, each read alone by every contender. The chains are trained by the one trainer with
the same network, steps and seed; their figure is the bound over 1000 steps, its terms estimated at ``draws`` times a
row, with its standard error over rows. The autoregressive transformer has the same width, depth, batch, steps and
schedule of learning rates, a causal mask and a causal convolution; its figure and the n-gram's (interpolated,
Witten-Bell; the best of orders 1 to 6) are exact likelihoods. Models stay in ``out``, and what is there is not trained
again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from tqdm import trange

from langevin import Noise, data, models, objectives, training
from langevin.data import Dataset
from langevin.denoisers import NetworkDenoiser
from langevin.distributions.divergence import kl
from langevin.nn import attention
from langevin.processes import Chain, Neighbours
from langevin.training import (
    BudgetConfig,
    Config,
    NetworkConfig,
    OptimiserConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from langevin.training.learner import learning_rate


@dataclass(frozen=True)
class Options:
    """What is trained, and how its figure is taken."""

    steps: int = 800
    batch: int = 64
    lr: float = 4e-3
    width: int = 64
    depth: int = 2
    rows: int = 2048
    draws: int = 16
    seed: int = 0
    out: Path = field(default=Path("runs/text"))


def contexts(x: Tensor, tokens: int) -> list[list[float]]:
    """An embedding from the training text alone: positive pointwise mutual information with both neighbours."""
    pairs = torch.zeros(tokens, tokens, dtype=torch.float64)
    pairs.index_put_((x[:, :-1].flatten(), x[:, 1:].flatten()), torch.ones(1, dtype=torch.float64), accumulate=True)
    both = torch.cat((pairs, pairs.T), 1)
    expected = both.sum(1, keepdim=True) * both.sum(0) / both.sum()
    return torch.log((both / expected).clamp_min(1)).tolist()


def neighbours(x: Tensor, tokens: int) -> dict[str, Any]:
    """Each token's nearest few: as few as leave every token within reach of every other."""
    embedding = contexts(x, tokens)
    for nearest in range(2, tokens):
        try:
            Neighbours(tokens, embedding, nearest)
        except ValueError:
            continue
        return {"embedding": embedding, "nearest": nearest}
    raise AssertionError


def bound(denoiser: NetworkDenoiser, x: Tensor, draws: int, seed: int) -> tuple[float, float]:
    """Bits a character and the standard error over rows; each row at ``draws`` of 1000 steps, spread evenly."""
    chain: Chain = denoiser.process  # type: ignore[assignment]
    term = objectives.create_objective({"name": "d3pm", "steps": 1000, "auxiliary": 0.0})
    total = torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, len(x), 256):
            rows = x[first : first + 256]
            each = rows.repeat_interleave(draws, 0)
            noise = Noise(seed, torch.arange(first * draws, first * draws + len(each)))
            total[first : first + 256] = term(denoiser, each, None, noise).reshape(-1, draws).mean(1)
    end = kl(chain.marginal(x, 1.0), chain.prior(tuple(x.shape[1:]))) / x[0].numel()
    nats = (total + end) / math.log(2)
    return float(nats.mean()), float(nats.std() / math.sqrt(len(x)))


def diffusion(
    name: str, prediction: str, options: Options, dataset: Dataset, settings: dict[str, Any]
) -> tuple[NetworkDenoiser, float]:
    """The trained model of a process, and the seconds it took."""
    out = options.out / f"{name}-{prediction}"
    if not (out / "config.json").exists():
        config = Config(
            seed=options.seed,
            batch=options.batch,
            network=NetworkConfig(None, {"width": options.width, "depth": options.depth}),  # type: ignore[dict-item]
            process=ProcessConfig(name, settings),
            prediction=PredictionConfig(prediction),
            optimiser=OptimiserConfig(lr=options.lr),
            budget=BudgetConfig(steps=options.steps),
            output=OutputConfig(validate_every=0, sample_every=0, checkpoint_every=0),
        )
        training.train(config, dataset, out)
    model = models.load(out)
    return model, float(model.config["seconds"])


class Causal(nn.Module):
    """A transformer that predicts each character from those before it in its row."""

    def __init__(self, tokens: int, length: int, width: int, depth: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.tokens, self.places = tokens, nn.Parameter(torch.randn(length, width) / width**0.5)
        self.stem = nn.Conv1d(tokens + 1, width, 5)
        make = lambda: nn.ModuleDict(
            {
                "first": nn.LayerNorm(width),
                "qkv": nn.Linear(width, 3 * width),
                "out": nn.Linear(width, width),
                "second": nn.LayerNorm(width),
                "mlp": nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)),
            }
        )
        self.blocks = nn.ModuleList(make() for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        """−log p of each row, nats ``(B,)``."""
        before = F.pad(x[:, :-1], (5, 0), value=self.tokens)
        h = self.stem(F.one_hot(before, self.tokens + 1).to(self.places).transpose(1, 2)).transpose(1, 2) + self.places
        for block in self.blocks:
            parts = block["qkv"](block["first"](h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            h = h + block["out"](attention(*parts, self.mask).transpose(1, 2).flatten(2))
            h = h + block["mlp"](block["second"](h))
        logits = self.head(self.norm(h))
        return F.cross_entropy(logits.transpose(1, 2), x, reduction="none").sum(1)


def autoregressive(options: Options, dataset: Dataset, x: Tensor) -> tuple[float, float, int, float]:
    """Bits a character on x, standard error, parameters, seconds."""
    torch.manual_seed(options.seed)
    info = dataset.info
    resolved = training.resolve_config(
        Config(optimiser=OptimiserConfig(lr=options.lr), budget=BudgetConfig(steps=options.steps)), info
    )
    network = Causal(len(info.tokens), info.dim, options.width, options.depth)
    adam = torch.optim.AdamW(network.parameters(), betas=resolved.optimiser.betas, weight_decay=0.0)
    order, begun = training.Order(len(dataset.train), options.seed), time.monotonic()
    for step in trange(1, options.steps + 1, desc="autoregressive"):
        rows = dataset.train.batch(order.batch((step - 1) * options.batch, options.batch))["x"]
        adam.param_groups[0]["lr"] = learning_rate(resolved.optimiser, step, (step - 1) / options.steps)
        adam.zero_grad()
        network(rows).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
    seconds = time.monotonic() - begun
    with torch.no_grad():
        bits = torch.cat([network(part) for part in x.split(256)]).double() / info.dim / math.log(2)
    count = sum(p.numel() for p in network.parameters())
    return float(bits.mean()), float(bits.std() / math.sqrt(len(x))), count, seconds


def n_gram(train: Tensor, test: Tensor, tokens: int, order: int) -> Tensor:
    """−log₂ p of each row a character, ``(N,)``: counts of up to ``order`` characters, interpolated (Witten–Bell).

    p(c | h) = (count(hc) + T(h) p(c | h')) / (count(h) + T(h)) with T(h) the different characters seen after h and h'
    its shorter history, down to 1/K.
    """
    after: dict[tuple[int, ...], Counter[int]] = {}
    for row in train.tolist():
        for i, c in enumerate(row):
            for n in range(min(order, i + 1)):
                after.setdefault(tuple(row[i - n : i]), Counter())[c] += 1
    totals = {h: (sum(seen.values()), len(seen)) for h, seen in after.items()}
    bits = []
    for row in test.tolist():
        total = 0.0
        for i, c in enumerate(row):
            p = 1 / tokens
            for n in range(min(order, i + 1)):
                history = tuple(row[i - n : i])
                if history not in totals:
                    break
                count, kinds = totals[history]
                p = (after[history][c] + kinds * p) / (count + kinds)
            total -= math.log2(p)
        bits.append(total / len(row))
    return torch.tensor(bits, dtype=torch.float64)


def main(options: Options) -> None:
    """Print the table."""
    dataset = data.load("words")
    train, test = dataset.train.all()["x"], dataset.test.all()["x"][: options.rows]
    tokens = len(dataset.info.tokens)
    table = []
    for name, prediction, settings in (
        ("absorbing", "evidence", {}),
        ("uniform", "evidence", {"schedule": "cosine"}),
        ("neighbours", "evidence", neighbours(train, tokens)),
        ("uniform", "logits", {"schedule": "cosine"}),
    ):
        model, seconds = diffusion(name, prediction, options, dataset, settings)
        bits, error = bound(model, test, options.draws, options.seed)
        count = sum(p.numel() for p in model.network.parameters())
        table.append((f"{name}, {prediction} (bound)", f"{bits:.3f} ± {error:.3f}", f"{count:,}", f"{seconds:.0f}"))
    bits, error, count, seconds = autoregressive(options, dataset, test)
    table.append(("autoregressive transformer", f"{bits:.3f} ± {error:.3f}", f"{count:,}", f"{seconds:.0f}"))
    grams = {order: n_gram(train, test, tokens, order) for order in range(1, 7)}
    best = min(grams, key=lambda order: float(grams[order].mean()))
    error = float(grams[best].std() / math.sqrt(len(test)))
    table.append((f"{best}-gram, Witten-Bell", f"{float(grams[best].mean()):.3f} ± {error:.3f}", "", ""))
    print(f"{len(train)} rows to learn, {len(test)} held out, {options.steps} steps of {options.batch}\n")
    print("| model | bits a character | parameters | seconds of training |\n|---|---|---|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
