"""A model with the habits of Hugging Face's libraries: called as a pipeline, loaded, saved and pushed to the Hub."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, ModelHubMixin
from torch import Tensor

from .. import models, samplers, training
from .._errors import UserError, check_instance, check_integer, check_numbers, nearest, shown
from ..denoisers import Denoiser
from ..denoisers.conditions import KINDS
from ..distributions import Noise
from ..models.conditional import bind
from ..models.directory import about, kind_of
from ..models.learned import is_foreign
from ..models.parts import PARTED
from ..processes import Process
from ..samplers import Sampler, State
from ..samplers.loop import Composite
from ..storage import files
from .card import HOME, card
from .loading import load

OUTPUTS = ("pil", "np", "pt")
"""``output_type``: pictures of Pillow, arrays ``(N, H, W, C)``, tensors ``(N, C, H, W)``, both in [0, 1]."""

CALLBACK_INPUTS = ("latents",)
"""What ``callback_on_step_end`` may ask for and give back."""

StepEnd = Callable[[Any, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""``callback(pipe, step, timestep, {"latents": x})``; what it returns takes the place of the state."""


@dataclass
class PipelineOutput:
    """Samples: ``images``, or ``samples`` for what is no picture; a tuple by its first element."""

    images: Any

    @property
    def samples(self) -> Any:
        """The images, by the name that other pipelines give what they made."""
        return self.images

    def __getitem__(self, index: int) -> Any:
        return (self.images,)[index]


@dataclass(frozen=True)
class Told(Composite):
    """A sampler that hands each state to a function, and goes on from what that returns."""

    sampler: Sampler
    call: Callable[[State], State]

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.sampler,)

    def with_parts(self, *parts: Sampler) -> Told:
        return Told(parts[0], self.call)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[Process], noise: Noise) -> State:
        return self.call(self.sampler.step(state, s, denoiser, noise))


class Pipeline(ModelHubMixin, library_name="langevin", repo_url=HOME, tags=["diffusion"]):
    """A model that is called as pipelines of diffusers are.

    ::

        pipe = langevin.Pipeline.from_pretrained("runs/digits")
        images = pipe(num_inference_steps=10, label=3, guidance_scale=2.0, batch_size=4).images

    ``from_pretrained`` takes what ``langevin.load`` does, pipelines of diffusers too; ``save_pretrained`` writes a
    model directory with its card, and ``push_to_hub`` that as a repository.

    Args:
        model: as ``langevin.load`` gives it.
        licence: of the model, as the Hub spells it; stands in the card.
    """

    def __init__(self, model: Any, *, licence: str | None = None) -> None:
        check_instance("model", model, Denoiser, "a model that makes data, as langevin.load gives one")
        self.model, self.licence = model, licence

    def __repr__(self) -> str:
        return f"Pipeline({self.model!r})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.device

    def to(self, device: torch.device | str) -> Pipeline:
        """The same with its network on a device."""
        self.model.network.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        label: int | list[int] | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        sampler: str | Sampler | None = None,
        grid: str | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = CALLBACK_INPUTS,
        return_dict: bool = True,
        **given: Any,
    ) -> PipelineOutput | tuple[Any]:
        """Draw samples.

        Args:
            prompt: a caption, or one a sample, for a model that takes captions.
            num_inference_steps: steps of the grid; 10 if not given.
            guidance_scale: w of uncond + w·(cond − uncond); 1 is the plain conditional model.
            label: a class, or one a sample.
            batch_size: how many samples; as many as there are prompts or labels if not given, else 1.
            generator: what the seed is drawn from: one number a call, so that no sample depends on ``batch_size``.
            seed: of the noise, instead of a generator; drawn from torch's own generator if neither is given.
            sampler, grid: as of ``langevin.sample``.
            output_type: ``pil``, ``np`` (float32 ``(N, H, W, C)`` in [0, 1]) or ``pt`` (``(N, C, H, W)`` in [0, 1]);
                for data that are no pictures ``np`` and ``pt``, in the data's own units.
            callback_on_step_end: called as ``callback(pipe, step, timestep, {"latents": x})`` after each step, with the
                time in [0, 1]; a mapping with ``latents`` that it returns takes the state's place.
            callback_on_step_end_tensor_inputs: ``["latents"]``.
            return_dict: whether ``.images`` or a tuple of them is returned.
            given: other conditions by name, such as ``image=``.

        Raises:
            UserError: for a request that cannot be met.
        """
        if output_type not in OUTPUTS:
            raise UserError(f"output_type must be one of {', '.join(OUTPUTS)}, got {output_type!r}")
        if set(callback_on_step_end_tensor_inputs) - set(CALLBACK_INPUTS):
            asked = list(callback_on_step_end_tensor_inputs)
            raise UserError(f"callback_on_step_end_tensor_inputs must be of {list(CALLBACK_INPUTS)}, got {asked}")
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise UserError(f"callback_on_step_end must be a function, got {shown(callback_on_step_end)}")
        check_numbers(guidance_scale=guidance_scale)
        _check_given(given, label)
        if guidance_scale != 1 and not given and prompt is None and label is None:
            raise UserError(f"guidance_scale {guidance_scale} needs a condition to guide by: a prompt or label=…")
        count = _count(batch_size, prompt, label)
        condition = {**given, **({} if prompt is None else {"caption": prompt})}
        if label is not None:
            condition["label"] = label if isinstance(label, int) else torch.as_tensor(label)
        for name in condition:
            if name not in self.model.condition_sizes:
                known = ", ".join(self.model.condition_sizes) or "none"
                raise UserError(f"the model must take {name} to be given it; its conditions are: {known}")
        denoiser = bind(self.model, condition, guidance_scale)
        if len(denoiser.stages) > 1 and callback_on_step_end is not None:
            raise UserError("callback_on_step_end is for models of one stage")
        plan = samplers.resolve(denoiser, sampler, steps=num_inference_steps, grid=grid)
        if callback_on_step_end is not None:
            plan = replace(plan, sampler=Told(plan.sampler, self._stepped(callback_on_step_end, plan.grid)))
        x = samplers.sample(denoiser, plan, n=count, seed=_seed(seed, generator), batch=count)
        made = self._as(x, output_type)
        return PipelineOutput(made) if return_dict else (made,)

    def _stepped(self, callback: StepEnd, times: Tensor) -> Callable[[State], State]:
        numbers = times.tolist()

        def call(state: State) -> State:
            t = float(state.t)
            step = min(range(1, len(numbers)), key=lambda i: abs(numbers[i] - t)) - 1
            back = callback(self, step, t, {"latents": state.x})
            if back is None:
                return state
            if not isinstance(back, Mapping) or not isinstance(x := back.get("latents", state.x), Tensor):
                raise UserError(f"callback_on_step_end must return a mapping with latents or None, got {shown(back)}")
            if x.shape != state.x.shape:
                raise UserError(
                    f"callback_on_step_end must return latents of shape {tuple(state.x.shape)}, got {tuple(x.shape)}"
                )
            return replace(state, x=x.to(state.x))

        return call

    def _as(self, x: Tensor, output_type: str) -> Any:
        """Samples as they were asked for."""
        data, shape = self.model.output, tuple(self.model.output_shape)
        picture = len(shape) == 3 and shape[0] in (1, 3) and x.is_floating_point()
        if not picture:
            if output_type == "pil":
                raise UserError(f"output_type must be 'np' or 'pt' for samples of shape {shape}, got 'pil'")
            return x.cpu().numpy() if output_type == "np" else x.cpu()
        low, high = (-1.0, 1.0) if data is None or data.low is None else (data.low, data.high)
        if output_type == "pil":
            return [training.image(one, low=low, high=high) for one in x]
        unit = ((x.float().cpu() - low) / (high - low)).clamp(0, 1)
        return unit.permute(0, 2, 3, 1).numpy() if output_type == "np" else unit

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Pipeline:
        if options:
            raise UserError(f"from_pretrained takes revision and device, got {', '.join(options)}")
        return cls(load(model_id, device=device, revision=revision))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Pipeline:
        """The pipeline of a directory or of a repository of the Hub; see ``langevin.load``."""
        path = os.fspath(pretrained_model_name_or_path)
        return cls._from_pretrained(model_id=path, revision=revision, device=device, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        if is_foreign(self.model):
            raise UserError(
                "the model must be one of this library's to be saved; a pipeline of diffusers is saved by diffusers"
            )
        if (save_directory / "model_index.json").exists():
            raise UserError(f"save_directory must not hold a pipeline of diffusers, which {save_directory} does")
        models.save(without_paths(self.model), save_directory)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        evaluation: Mapping[str, Any] | None = None,
        samples: int = 16,
        config: Any = None,
        model_card_kwargs: Any = None,
        **push_options: Any,
    ) -> str | None:
        """Write a model directory with its card and a picture of samples, and push it if that is asked for.

        The model is written whole or not at all, in float32; ``langevin.load`` reads it. Of the place that the data
        were read from it keeps the name alone, not the path.

        Args:
            save_directory: where; made if it is not there.
            repo_id: ``owner/name`` on the Hub; the name of the directory in the card if not given.
            push_to_hub: whether to push.
            evaluation: what ``langevin evaluate`` wrote, for the card.
            samples: images of the card's picture; 0 for none.
            config, model_card_kwargs: not used; ``huggingface_hub`` hands them over.
            push_options: the others of ``push_to_hub``.
        """
        check_integer("samples", samples, 0)
        folder = Path(save_directory)
        self._save_pretrained(folder)
        picture = None
        if samples and len(tuple(self.model.output_shape)) == 3 and "caption" not in self.model.condition_sizes:
            x = self(batch_size=samples, seed=0, output_type="pt", **_in_turn(self.model, samples))[0]
            if x.is_floating_point():
                picture = "samples.png"
                files.replace(folder / picture, training.png(training.image_grid(x, low=0.0, high=1.0)))
        name = repo_id or folder.name
        told = card(
            about(without_paths(self.model)), name=name, licence=self.licence, evaluation=evaluation, picture=picture
        )
        files.replace(folder / "README.md", told.encode())
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, evaluation=evaluation, samples=samples, **push_options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: Mapping[str, Any] | None = None,
        samples: int = 16,
        commit_message: str = "Push model with langevin",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        config: Any = None,
        model_card_kwargs: Any = None,
    ) -> str:
        """Push what ``save_pretrained`` writes to a repository of the Hub, which is made if it is not there.

        The card names the repository as the Hub does, with its owner.

        Args:
            repo_id: ``owner/name``, or a name of your own repositories.
            evaluation, samples: as of ``save_pretrained``.
            commit_message, private, token, branch, create_pr: as of ``huggingface_hub``'s method of this name.
            allow_patterns, ignore_patterns, delete_patterns: the same.
            config, model_card_kwargs: not used; ``huggingface_hub`` knows them.

        Returns:
            The address of the commit.
        """
        api = HfApi(token=token)
        name = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as place:
            # The mixin's own would hand over the place alone, whose last part is the name without its owner.
            self.save_pretrained(place, repo_id=name, evaluation=evaluation, samples=samples)
            made = api.upload_folder(
                repo_id=name,
                folder_path=place,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )
        return str(made)


def without_paths(model: Any) -> Any:
    """A model whose data name no place on this machine: of a path the last part alone."""
    if (kind := kind_of(model)) is not None and kind in PARTED:
        return PARTED[kind].of({name: without_paths(part) for name, part in model.parts.items()})
    source = {} if model.data is None else dict(model.data.source)
    named = str(source.get("source", ""))
    if not named or named.startswith("hf:") or Path(named).name == named:
        return model
    return replace(model, data=replace(model.data, source={**source, "source": Path(named).name}))


def _check_given(given: Mapping[str, Any], label: Any) -> None:
    """Refuse what is no condition at all, and a label that is no number."""
    taken = [p for p in inspect.signature(Pipeline.__call__).parameters if p not in ("self", "given")]
    for name in given:
        if name not in KINDS:
            close = nearest(name, [*taken, *KINDS])
            raise UserError(f"Pipeline takes no {name!r}.{close} It takes {', '.join(taken)}, and conditions by name.")
    several = label if isinstance(label, (list, tuple)) else [] if label is None else [label]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in several):
        raise UserError(f"label must be the index of a class or a list of them, got {shown(label)}")


def _in_turn(model: Any, count: int) -> dict[str, Any]:
    """Labels 0, 1, … in turn for a model that takes them."""
    classes = model.condition_sizes.get("label")
    return {"label": [i % int(classes) for i in range(count)]} if isinstance(classes, int) else {}


def _count(batch_size: int | None, prompt: Any, label: Any) -> int:
    lists = {len(value) for value in (prompt, label) if isinstance(value, (list, tuple))}
    if batch_size is None:
        batch_size = max(lists, default=1)
    check_integer("batch_size", batch_size, 1)
    if lists - {batch_size}:
        raise UserError(f"batch_size must be the number of prompts and labels, {sorted(lists)}, got {batch_size}")
    return batch_size


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The key of a call's noise."""
    if seed is not None and generator is not None:
        raise UserError("seed is in place of a generator; give one or the other")
    if seed is not None:
        return check_integer("seed", seed, 0)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise UserError(f"generator must be one torch.Generator for all samples, got {shown(generator)}")
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
