"""A correct scheduler, written for the tests of audits, and mutants of it, each wrong in one way."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch


class Reference:
    """DPM-Solver++(2M), arXiv:2211.01095 algorithm 2, on a table of linear β, at trailing times; it predicts ε."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, solver_order=2):
        self.config = {
            "num_train_timesteps": num_train_timesteps,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "solver_order": solver_order,
            "prediction_type": "epsilon",
        }
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
        self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        self.old = self.index = self.begin = None

    @classmethod
    def from_config(cls, config):
        return cls(**{key: value for key, value in config.items() if key != "prediction_type"})

    def set_timesteps(self, steps):
        count = self.config["num_train_timesteps"]
        self.timesteps = (torch.arange(count, 0, -count / steps, dtype=torch.float64).round() - 1).long()[:steps]
        bar = self.alphas_cumprod[self.timesteps]
        self.sigmas = torch.cat((((1 - bar) / bar).sqrt(), torch.zeros(1, dtype=torch.float64)))
        self.reset()

    def reset(self):
        self.old = self.index = self.begin = None

    def set_begin_index(self, index):
        self.begin = index

    def scale_model_input(self, x, t):
        return x

    def level(self, sigma):
        return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)

    def add_noise(self, original_samples, noise, timesteps):
        bar = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return bar.sqrt() * original_samples + (1 - bar).sqrt() * noise

    def step(self, out, t, x, generator=None):
        if self.index is None:
            self.index = int((self.timesteps == t).nonzero()[0]) if self.begin is None else self.begin
        now, end = float(self.sigmas[self.index]), float(self.sigmas[self.index + 1])
        kind = self.kind(x)
        x0 = (x.to(kind) - self.level(now)[1] * out.to(kind)) / self.level(now)[0]
        made = self.move(x.to(kind), x0, now, end, generator)
        self.remember(x0, now)
        self.index += 1
        return SimpleNamespace(prev_sample=made.to(self.returned(x)))

    def kind(self, x):
        return torch.promote_types(x.dtype, torch.float32)

    def returned(self, x):
        return x.dtype

    def remember(self, x0, now):
        self.old = (x0, now)

    def ratio(self, now, end):
        """(λ_s − λ_t) over (λ_t − λ_u), of the step before."""
        return math.log(now / end) / math.log(self.old[1] / now)

    def move(self, x, x0, now, end, generator):
        if self.old is not None and end > 0:
            x0 = x0 + self.ratio(now, end) / 2 * (x0 - self.old[0])
        a, s = self.level(end)
        return a * x0 + s / self.level(now)[1] * (x - self.level(now)[0] * x0)


class SigmaOfTheWrongTime(Reference):
    """The step before is measured from where this one ends."""

    def ratio(self, now, end):
        return math.log(now / end) / math.log(self.old[1] / end)


class DriftDoubled(Reference):
    def move(self, x, x0, now, end, generator):
        return x + 2 * (super().move(x, x0, now, end, generator) - x)


class StrideInferred(Reference):
    """A step of N // n times, whatever the grid is."""

    def set_timesteps(self, steps):
        super().set_timesteps(steps)
        count = self.config["num_train_timesteps"]
        self.timesteps = torch.linspace(count - 1, 0, steps, dtype=torch.float64).round().long()
        bar = self.alphas_cumprod[self.timesteps]
        self.sigmas = ((1 - bar) / bar).sqrt()
        self.stride = count // steps

    def step(self, out, t, x, generator=None):
        end, now = int(t) - self.stride, (1 - self.alphas_cumprod[t]) / self.alphas_cumprod[t]
        bar = self.alphas_cumprod[end] if end >= 0 else torch.ones((), dtype=torch.float64)
        a, s = self.level(math.sqrt(now))
        x0 = (x - s * out) / a
        return SimpleNamespace(prev_sample=(bar.sqrt() * x0 + (1 - bar).sqrt() * out).to(x.dtype))


class HistoryOutsideItsBranch(Reference):
    """What was predicted last is overwritten before it is used: the slope is 0."""

    def move(self, x, x0, now, end, generator):
        self.old = (x0, self.old[1]) if self.old else None
        return super().move(x, x0, now, end, generator)


class LastStepRepeated(Reference):
    """The last noise level is there twice."""

    def set_timesteps(self, steps):
        super().set_timesteps(steps)
        self.sigmas[-1] = self.sigmas[-2]

    def ratio(self, now, end):
        return 0.0 if now in (end, self.old[1]) else super().ratio(now, end)


class StopsEarly(Reference):
    """It leaves the noise of its last time in the samples."""

    def set_timesteps(self, steps):
        super().set_timesteps(steps)
        self.sigmas[-1] = self.sigmas[-2] / 2


class StateLeftOver(Reference):
    def reset(self):
        self.index = self.begin = None


class HalfInside(Reference):
    def kind(self, x):
        return torch.float16


class SingleOut(Reference):
    def returned(self, x):
        return torch.float32


class NoNumbersInOneStep(Reference):
    def move(self, x, x0, now, end, generator):
        return super().move(x, x0, now, end, generator) * (math.nan if len(self.timesteps) == 1 else 1)


class ConfigurationLost(Reference):
    @classmethod
    def from_config(cls, config):
        return cls(solver_order=config["solver_order"], beta_end=0.03)


class NoiseOfAnotherTime(Reference):
    def add_noise(self, original_samples, noise, timesteps):
        return super().add_noise(original_samples, noise, (timesteps - 50).clamp_min(0))


class BeginIgnored(Reference):
    """The index of a start half-way is one too small."""

    def set_begin_index(self, index):
        self.begin = index - 1


class BatchMixed(Reference):
    def move(self, x, x0, now, end, generator):
        return super().move(x, x0 + 0.01 * x0.mean(), now, end, generator)


class RisingTimes(Reference):
    def set_timesteps(self, steps):
        super().set_timesteps(steps)
        if steps > 3:
            self.timesteps[1:3], self.sigmas[1:3] = self.timesteps[1:3].flip(0), self.sigmas[1:3].flip(0)


class Ancestral(Reference):
    """The bridge with noise of its own, of first order: exact laws as steps get fine."""

    solver_order = 1
    share = 1.0

    def move(self, x, x0, now, end, generator):
        (a, s), (b, r) = self.level(end), self.level(now)
        variance = s**2 * (1 - (end * b / (now * a) * a / b) ** 2)
        mean = a * x0 + math.sqrt(max(0.0, s**2 - variance)) / r * (x - b * x0)
        return mean + math.sqrt(self.share * variance) * self.draw(x, generator)

    def draw(self, x, generator):
        if isinstance(generator, list):
            return torch.stack([torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in generator])
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)


class GeneratorIgnored(Ancestral):
    def draw(self, x, generator):
        return torch.randn_like(x)


class HalfTheNoise(Ancestral):
    share = 0.5


class FirstStateTooLarge(Reference):
    init_noise_sigma = 3.0


class LeadsItself(Reference):
    """It moves pure noise to its first time unless a state was entered by ``add_noise``."""

    entered = False

    def add_noise(self, original_samples, noise, timesteps):
        self.entered = True
        return super().add_noise(original_samples, noise, timesteps)

    def scale_model_input(self, x, t):
        return x if self.entered or t != self.timesteps[0] else 0.9 * x


class ShortTable(Reference):
    """A table of 300 times, so that its longest run is short, of the same least noise."""

    def __init__(self, num_train_timesteps=300, beta_start=1e-4, beta_end=0.05, solver_order=2):
        super().__init__(num_train_timesteps, beta_start, beta_end, solver_order)


MEAN = torch.tensor([0.065, -0.08, 0.05, 0.095], dtype=torch.float64).reshape(1, 1, 2, 2)
"""Of the world of audits: its components' means by their weights."""


class MirroredAtTheMean(ShortTable):
    """Samples with the right mean and covariance, of a law that is the true one turned round."""

    def move(self, x, x0, now, end, generator):
        made = super().move(x, x0, now, end, generator)
        return made if end > 0 else 2 * MEAN - made


class SpreadTooLarge(ShortTable):
    """Samples that lie 4 % too far from their mean."""

    def move(self, x, x0, now, end, generator):
        made = super().move(x, x0, now, end, generator)
        return made if end > 0 else MEAN + 1.04 * (made - MEAN)


class NoNumbersAtTheMost(ShortTable):
    """At as many steps as the table has times it divides by the step between two that are one."""

    def move(self, x, x0, now, end, generator):
        count = self.config["num_train_timesteps"]
        return super().move(x, x0, now, end, generator) * (math.nan if len(self.timesteps) == count else 1)


class NoiseReversedBeforeSteps(Reference):
    """Until it is told its steps, it adds the noise of time N − 1 − t, as a table that is looked up backwards does."""

    def add_noise(self, original_samples, noise, timesteps):
        if not hasattr(self, "timesteps"):
            timesteps = self.config["num_train_timesteps"] - 1 - timesteps
        return super().add_noise(original_samples, noise, timesteps)
