"""A sampler of this library as a scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import BaseOutput
from torch import Tensor

from ..._errors import UserError, check_instance, shown
from ..._registry import lookup
from ...distributions import Dirac, Distribution
from ...numerics.frame import GaussianFrame
from ...processes import DDPM, expand
from ...samplers import Sampler, check_grid
from .choice import sampler_of, shape_of
from .classes import check_changes, named, native_class, native_config
from .native import OURS, bounded, described, remembered
from .run import Generators, Run
from .scheduler_config import Conventions
from .times import check_mu, number_of, of_sigmas, of_steps, of_timesteps, slack_of


@dataclass
class SchedulerOutput(BaseOutput):
    """What ``Scheduler.step`` returns.

    Attributes:
        prev_sample: what the pipeline shows its network next.
        pred_original_sample: x̂_0, the mean of the belief about clean data.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler(SchedulerMixin, ConfigMixin):
    r"""A sampler of this library in a pipeline of diffusers.

    ``pipe.scheduler = Scheduler.from_config(pipe.scheduler.config)`` is all; text to image, image to image, inpainting
    and flow pipelines that give ``sigmas`` and ``mu`` work as they do with their own scheduler.

    A pipeline calls its network and hands the output to ``step``; a sampler calls a denoiser. A sampler's step is a
    pure function of the state, so it is run with the outputs that have come so far as its beliefs: where it asks for
    another one, the state it asks about is what the pipeline gets next. ``timesteps`` has a line an evaluation; it is
    known beforehand by a dry run, and samplers that choose their times as they go are refused.

    * **Times** come from the first of these that is given: ``timesteps`` or ``sigmas`` of the call (many flow pipelines
      always give ``sigmas``), ``grid``, the sampler's own grid. Between the knots of a table the network is told a
      fraction. Own and named grids of a flow are moved by the config's shift, unless the moments of the data are
      given. ``mu`` is left aside by flows without ``use_dynamic_shifting``, since pipelines give it to all, and refused
      by other processes.
    * **The default solver's first step asks nothing** where the run starts far above the data's spread, and a pipeline
      begins at the end of it: ``scale_model_input`` returns the state there. Where a pipeline does not call that, the
      network sees the noise itself at that timestep; its prediction hardly changes. On a grid that is not the solver's
      own the pipeline calls its network at the first time too, and the output is not used.
    * **A first time without signal** (σ = 1 of a flow) is used by samplers that can; for others it is moved to
      the process's ``t_max``, 0.999 for a flow.
    * **Moments** (mean and covariance of the data) make the default sampler more accurate on latents, and are given or
      assumed: mean 0 and one variance, 1 for latents (a flow, or the ``scaled_linear`` table) and 0.41 for pixels.
      ``estimate_moments(pipe)`` estimates them once. They are not estimated on the way: a picture would depend on what
      was drawn beside and before it, and predictions under guidance are not of the data's law.
    * **Noise** of stochastic samplers is a function of a key and of the position in the batch. The key is drawn once a
      run from ``generator``; of several generators, one a picture, each gives its picture a key, which then does not
      depend on its batch. The numbers are therefore not those of diffusers' stochastic schedulers; the laws are.
    * **State touched from outside**: states changed between evaluations (inpainting, callbacks) are used as they are.
      A begin index, a step index that was changed, and a last entry of ``sigmas`` that was written are followed; an
      index in the midst of a step, another timestep than the index says, and other changes of ``sigmas`` are refused.
    * **Half precision**: what a step returns has the dtype of the network's output; the sampler keeps its own state
      in float32 and goes on from there if it comes back unchanged.
    * ``clip_sample`` and ``thresholding`` of the config bound x̂_0, where the class it is of does that. The variance of
      a network that learns one is not used.
    * The class bears the name of the native scheduler of the config, by which a pipeline writes it down: a saved
      pipeline loads anywhere. ``Scheduler.from_config`` of its config brings sampler and grid back where they are not
      named, unless the saved sampler has no use for the ``moments`` or the ``guidance_scale`` that are given now: then
      the default takes its place. ``moments``, and samplers of your own, must be given again.

    Args:
        sampler: a sampler or its registered name; the default solver if not given.
        grid: times in [0, 1] downwards, the registered name of a grid, ``"config"`` for the times of the native
            scheduler of the config, or ``"own"`` for the sampler's, as if not given. On flow pipelines that offer it
            (``use_flow_sigmas``) a grid takes the place of the pipeline's own ``sigmas``.
        moments: of the data that the network knows (latents, in a latent pipeline): a ``GaussianFrame``, or a batch of
            them ``(n, *shape)``.
        guidance_scale: at which the pipeline is called, ≥ 1, for the default solver; a scheduler does not see it. 4
            is assumed if not given.
        config: keys of a scheduler's config, with diffusers' defaults.

    Raises:
        UserError: for a config of no known process, and for a request that cannot be met.
    """

    def __init__(
        self,
        sampler: Sampler | str | None = None,
        grid: Tensor | Sequence[float] | str | None = None,
        moments: GaussianFrame | Tensor | None = None,
        guidance_scale: float | None = None,
        **config: Any,
    ) -> None:
        sampler, grid, guidance_scale = remembered(config, sampler, grid, moments, guidance_scale)
        self._grid = grid if grid is None or isinstance(grid, str) else check_grid(grid)  # type: ignore[arg-type]
        if isinstance(self._grid, str) and self._grid != "config":
            lookup("grids", self._grid)
        config = named(config)
        Conventions.of(config)  # what cannot be read is told in our words
        native = native_config(config)
        ours = described(sampler, self._grid, guidance_scale)
        self.register_to_config(**native, **({OURS: ours} if ours else {}))
        self._known: tuple[FrozenDict, Conventions] | None = None
        latent = self._units.kind == "flow" or native.get("beta_schedule") == "scaled_linear"
        self._sampler = sampler_of(sampler, moments, guidance_scale, self._units.process, latent)
        self._moments = shape_of(moments)
        self.num_inference_steps: int | None = None
        self._run: Run | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        knots = torch.arange(self._units.size, 0, -1, dtype=torch.float64) / self._units.size
        self.timesteps = self._units.timestep(knots).float()
        self.sigmas = self._sigmas = self._units.level(knots).float()
        self._native = native_class(native)
        self.__class__ = _named(self._native)

    @classmethod
    def from_config(  # type: ignore[override]
        cls,
        config: Mapping[str, Any],
        *,
        sampler: Sampler | str | None = None,
        grid: Tensor | Sequence[float] | str | None = None,
        moments: GaussianFrame | Tensor | None = None,
        guidance_scale: float | None = None,
        return_unused_kwargs: bool = False,
        **changes: Any,
    ) -> Any:
        """The scheduler for a config, that of a pipeline's scheduler; see the class for what is chosen."""
        check_instance("config", config, Mapping, "a scheduler's config, such as pipe.scheduler.config")
        check_changes(changes, config)
        if changes.get("_class_name") is None:
            config = named(config, isinstance(config, FrozenDict))
        made = Scheduler(sampler, grid, moments, guidance_scale, **{**config, **changes})
        return (made, {}) if return_unused_kwargs else made

    def __repr__(self) -> str:
        grid = "" if self._grid is None else f", grid={shown(self._grid)}"
        return f"langevin.adapters.diffusers.Scheduler({self._sampler}{grid}) of {type(self).__name__}"

    def __len__(self) -> int:
        return self._units.size

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.__dict__,)

    @property
    def config(self) -> FrozenDict:
        """The config: that of the native scheduler."""
        own = self._grid is not None and self._units.kind == "flow"
        return FrozenDict({**self._internal_dict, "use_flow_sigmas": True}) if own else self._internal_dict

    @property
    def _units(self) -> Conventions:
        """The conventions of the config, which a pipeline may replace."""
        if self._known is None or self._known[0] is not self._internal_dict:
            self._known = self._internal_dict, Conventions.of(self._internal_dict)
        return self._known[1]

    @property
    def order(self) -> int:
        """Evaluations of a step, where all but the last one have as many; 1 otherwise."""
        return 1 if self._run is None else self._run.order

    @property
    def step_index(self) -> int | None:
        """The line of ``timesteps`` whose output is expected next; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The line of ``timesteps`` at which the run begins, if a pipeline has said so."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say at which line of ``timesteps`` the run begins."""
        self._begin_index = begin_index

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the states that a run starts from."""
        return self._units.initial(torch.ones((), dtype=torch.float64) if self._run is None else self._run.grid[0])

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_1…ᾱ_N of a table."""
        process = self._units.process
        if not isinstance(process, DDPM):
            raise AttributeError(f"{type(process).__name__} has no table of alphas_cumprod")
        knots = torch.arange(1, process.steps + 1, dtype=torch.float64) / process.steps
        return process.alpha(knots).square().float()

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the times of a run; what was remembered of the run before is forgotten.

        Args:
            num_inference_steps: steps; may be left out with ``timesteps``, ``sigmas`` or a grid of times.
            device: of ``timesteps``.
            timesteps: what the network is told, falling; the run ends at clean data.
            sigmas: levels, falling: σ of a flow, before its shift and without the 0 at the end; otherwise σ/α, as
                diffusers' Euler scheduler with the end, 0 for clean data.
            mu: of a flow whose shift depends on the size of the picture.

        Raises:
            UserError: for times that do not fall or contradict each other, and for ``mu`` where none is taken.
        """
        units, config = self._units, self._internal_dict
        mu = check_mu(units, config, mu)
        if timesteps is not None and sigmas is not None:
            raise UserError("timesteps and sigmas are two ways to say the same; give one of them")
        if timesteps is not None:
            grid = of_timesteps(units, timesteps, num_inference_steps)
        elif sigmas is not None:
            grid = of_sigmas(units, config, sigmas, num_inference_steps, mu)
        else:
            grid = of_steps(units, config, self._sampler, self._grid, num_inference_steps, mu)
        own = timesteps is None and sigmas is None and self._grid is None
        self._run = run = Run(self._sampler, units.process, grid, own, self._moments)
        asked = torch.tensor([e.t for e in run.entries], dtype=torch.float64)
        labels = units.timestep(asked)
        whole = units.kind == "table" and bool((labels == labels.round()).all())
        self.timesteps = labels.to(device, torch.int64 if whole else torch.float32)
        self.sigmas = units.level(torch.cat((asked, run.grid[-1:]))).float()
        self._sigmas = self.sigmas.clone()
        self.num_inference_steps = run.steps
        self._step_index = self._begin_index = None

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The line of ``timesteps`` for a timestep: where several are equal, the one that begins a step.

        Raises:
            UserError: for a timestep that is not there.
        """
        value, near = number_of(timestep)
        schedule = self.timesteps if schedule_timesteps is None else schedule_timesteps
        away = (schedule.double().cpu() - value).abs()
        close = (away <= min(near, float(away.min()) + 1e-12)).nonzero().flatten().tolist() if len(away) else []
        if not close:
            raise UserError(f"timestep must be one of the {len(schedule)} of this run, got {value:g}")
        entries = () if self._run is None else self._run.entries
        begins = [i for i in close if i < len(entries) and entries[i].call == 0]
        return int((begins or close)[0])

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the network is shown of a state: the state, but for EDM's networks and for a first step without them."""
        units, run = self._units, self._run
        begins = self._step_index is None and self._begin_index in (None, 0) and timestep is not None
        if run is not None and run.leads and not run.entered and begins and self.index_for_timestep(timestep) == 0:
            run.begin()
            sample = run.led(sample)
        if units.kind != "edm":
            return sample
        if timestep is None:
            raise UserError(
                "timestep must be given: EDM's networks are shown the state divided by its standard deviation"
            )
        t = units.time(torch.tensor(number_of(timestep)[0]))
        return sample * float(units.process.sigma(t) ** 2 + units.parameterization.sigma_data**2) ** -0.5

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any) -> Tensor:
        """x_t = αx_0 + σε at timesteps ``(B,)`` or ``(1,)``, of the schedule or not."""
        units = self._units
        timesteps = torch.as_tensor(timesteps).reshape(-1)
        t = torch.tensor([self._time(float(v), slack_of(timesteps)) for v in timesteps], dtype=torch.float64)
        if self._run is not None and self._step_index is None and bool((t == self._run.entries[0].t).any()):
            self._run.entered = True
        alpha, sigma = (
            expand(units.process.alpha(t), original_samples),
            expand(units.process.sigma(t), original_samples),
        )
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        """``add_noise`` as flow pipelines call it."""
        return self.add_noise(sample, noise, timestep)

    def _time(self, timestep: float, slack: float) -> float:
        """The time of a timestep: that of a line of the schedule, if it is one."""
        away = (self.timesteps.double().cpu() - timestep).abs()
        if self._run is not None and float(away.min()) <= slack * max(1.0, abs(timestep)):
            return self._run.entries[int(away.argmin())].t
        t = float(self._units.time(torch.tensor(timestep, dtype=torch.float64)))
        if not 0 <= t <= 1:
            raise UserError(f"timestep must be one that the network was trained with, got {timestep:g}")
        return t

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Take the network's output for a state, and return the state to ask it about next.

        Args:
            model_output: of the network, guided or not, for ``sample`` at ``timestep``.
            timestep: the line of ``timesteps`` that is up.
            sample: the state.
            eta: must be 0: it is a setting of samplers, ``Scheduler(sampler=langevin.samplers.DDIM(eta))``.
            use_clipped_model_output: of diffusers' DDIM; there is no other way here.
            generator: of the noise, one for all or one a picture; torch's own if not given.
            return_dict: as an object rather than as a tuple.

        Raises:
            UserError: for calls out of turn.
        """
        if self._run is None:
            raise UserError("set_timesteps must be called before step")
        if eta:
            raise UserError(f"eta must be 0: give it to the sampler, Scheduler(sampler=DDIM(eta={eta:g})); got {eta}")
        self._follow_sigmas(self._run)
        index = self._turn(self._run, timestep)
        belief = self._belief(model_output, self._run.show(index, sample), self._run.entries[index].t)
        x = self._run.answer(index, belief, generator)
        self._step_index = index + 1
        out = SchedulerOutput(x.to(model_output.dtype), belief.mean.to(model_output.dtype))
        return out if return_dict else (out.prev_sample, out.pred_original_sample)

    def _turn(self, run: Run, timestep: Any) -> int:
        """The line of ``timesteps`` that is up, which must be that of the timestep."""
        if self._step_index is None:
            begin = self._begin_index
            run.begin()
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        index, (value, near) = self._step_index, number_of(timestep)
        if not 0 <= index < len(run.entries):
            raise UserError(
                f"index {index} is none of the {len(run.entries)} timesteps of this run; call set_timesteps"
            )
        if abs(value - float(self.timesteps[index])) > near:
            raise UserError(
                f"timestep must be {float(self.timesteps[index]):g}, that of index {index} which is up, got {value:g}"
            )
        return index

    def _belief(self, out: Tensor, x: Tensor, t: float) -> Distribution:
        """The belief of the network's output about states x."""
        units = self._units
        if out.shape[1:] != x.shape[1:] and out.shape[1] == 2 * x.shape[1]:
            out = out.chunk(2, dim=1)[0]
        if out.shape != x.shape:
            raise UserError(f"model_output must have the shape of sample, {tuple(x.shape)}, got {tuple(out.shape)}")
        at = torch.tensor(t, dtype=torch.float64)
        now = units.parameterization.inputs(units.process, at, at).numbers()
        belief = units.parameterization.to_belief(units.process, out, x, now)
        return Dirac(bounded(belief.mean, self._internal_dict))

    def _follow_sigmas(self, run: Run) -> None:
        """Take an end of ``sigmas`` that was written from outside."""
        if self.sigmas.shape == self._sigmas.shape and torch.equal(self.sigmas, self._sigmas.to(self.sigmas)):
            return
        same = self.sigmas.shape == self._sigmas.shape and torch.equal(
            self.sigmas[:-1].cpu(), self._sigmas[:-1].to(self.sigmas.dtype)
        )
        end = float(self.sigmas[-1]) if len(self.sigmas) else -1.0
        if not same or not 0 <= end <= float(self._sigmas[-2]):
            raise UserError("sigmas must be left as they are but for the last one; give others to set_timesteps")
        stays = end == float(self._sigmas[-2])
        run.end_at(run.grid[-2] if stays else self._units.time_of_level(self.sigmas[-1].cpu()))
        self._sigmas = self.sigmas.cpu().clone()


@lru_cache(maxsize=64)
def _named(native: type) -> type:
    """Scheduler under the name of a native one, by which pipelines write down what they are made of."""
    return type(native.__name__, (Scheduler,), {"__module__": native.__module__, "__doc__": Scheduler.__doc__})


def _again(state: dict[str, Any]) -> Scheduler:
    """A scheduler with this state, for copies."""
    made = Scheduler.__new__(Scheduler)
    made.__dict__.update(state)
    made.__class__ = _named(made._native)
    return made
