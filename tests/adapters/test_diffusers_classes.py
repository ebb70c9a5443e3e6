"""Which scheduler a config is of: made, loaded and written by hand; what is refused."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from langevin import UserError

diffusers = pytest.importorskip("diffusers")
from langevin.adapters.diffusers import Scheduler  # noqa: E402
from langevin.adapters.diffusers.classes import defaults  # noqa: E402
from langevin.adapters.diffusers.scheduler_config import ACCEPTED  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "schedulers.md"

MADE = [name for name in ACCEPTED if defaults(name) is not None]
"""The accepted schedulers that can be made here."""

SAME = {
    "DDIMParallelScheduler": "DDIMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",
    "KDPM2AncestralDiscreteScheduler": "KDPM2DiscreteScheduler",
    "TCDScheduler": "LCMScheduler",
}
"""Classes whose settings and defaults are those of another one, which their nameless config is taken for."""


@pytest.mark.parametrize("name", MADE)
def test_made_and_loaded_configs(name: str) -> None:
    """Without its name a config is of the class with its settings; with it, of that class; their process is one."""
    config = getattr(diffusers, name)().config
    nameless, loaded = Scheduler.from_config(config), Scheduler.from_config({**config, "_class_name": name})
    assert type(nameless).__name__ == type(Scheduler.from_config(dict(config))).__name__ == SAME.get(name, name)
    assert type(loaded).__name__ == name
    assert nameless._units == loaded._units


@pytest.mark.parametrize("name", MADE)
def test_converted_configs(name: str) -> None:
    """What a scheduler of diffusers takes over from another one's config, and keeps beside its own, is of no matter."""
    config: dict[str, Any] = diffusers.DDIMScheduler(clip_sample=False, sample_max_value=2.0).config
    config = getattr(diffusers, name).from_config(config).config
    assert type(Scheduler.from_config(config)).__name__ == SAME.get(name, name)
    with pytest.raises(UserError, match="no such class has just these settings"):
        Scheduler.from_config(diffusers.IPNDMScheduler.from_config(config).config)


REFUSED = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and name not in (*ACCEPTED, "FlowMapEulerDiscreteScheduler")
]
"""All others but one, whose settings are those of FlowMatchHeunDiscreteScheduler."""


@pytest.mark.parametrize("name", REFUSED)
def test_other_schedulers_are_refused(name: str) -> None:
    """Made or loaded, with the list of what is accepted and no advice."""
    settings = list(inspect.signature(getattr(diffusers, name).__init__).parameters.values())[1:]
    made = {p.name: p.default for p in settings if p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL}
    told = []
    for config in ({**made, "_use_default_values": list(made)}, {**made, "_class_name": name}):
        with pytest.raises(UserError, match=r"Accepted are .*DDIMScheduler, .*UniPCMultistepScheduler") as error:
            Scheduler.from_config(config)
        told.append(str(error.value))
    assert "Did you mean" not in "".join(told)
    assert name in told[1]


def test_the_config_of_a_scheduler_whose_settings_were_all_given() -> None:
    """Its config has no list of settings that were left out, and is known by its type."""
    config = diffusers.IPNDMScheduler(num_train_timesteps=1000, trained_betas=None).config
    with pytest.raises(UserError, match=r"no such class has just these settings: num_train_timesteps, trained_betas"):
        Scheduler.from_config(config)


def test_a_class_whose_package_is_missing() -> None:
    if "DPMSolverSDEScheduler" in MADE:
        pytest.skip("torchsde is installed")
    with pytest.raises(UserError, match=r"^DPMSolverSDEScheduler needs the package torchsde, .*pip install torchsde$"):
        Scheduler.from_config({"_class_name": "DPMSolverSDEScheduler"})


@pytest.mark.parametrize("how", ["keyword", "mapping"])
def test_a_setting_that_is_changed(how: str) -> None:
    """A setting that the scheduler was made without is not left at its default where it is given later."""
    config, more = diffusers.DDIMScheduler().config, {"prediction_type": "v_prediction"}
    made = Scheduler.from_config(config, **more) if how == "keyword" else Scheduler.from_config({**config, **more})
    assert made.config["prediction_type"] == "v_prediction"
    assert made._units.parameterization.prediction == "v"
    assert "prediction_type" not in made.config["_use_default_values"]
    assert "beta_start" in made.config["_use_default_values"]


def test_a_name_that_is_given() -> None:
    """Where settings are those of several classes, the name tells which."""
    config = diffusers.TCDScheduler().config
    assert type(Scheduler.from_config(config, _class_name="TCDScheduler")).__name__ == "TCDScheduler"


@pytest.mark.parametrize(("key", "near"), [("smapler", "sampler"), ("moment", "moments"), ("flow_shfit", "flow_shift")])
def test_unknown_keywords(key: str, near: str) -> None:
    """Keys of other schedulers' configs stay allowed, others are refused with the nearest name."""
    config: dict[str, Any] = diffusers.DDIMScheduler().config
    with pytest.raises(UserError, match=rf"unknown keyword '{key}'. Did you mean '{near}'"):
        Scheduler.from_config(config, **{key: "ddim"})
    with pytest.raises(UserError, match=rf"unknown keyword '{key}'. Did you mean '{near}'"):
        Scheduler(**{key: "ddim"})
    Scheduler.from_config(config, use_karras_sigmas=True, _note="mine")
    Scheduler.from_config({**config, "_class_name": "DDIMScheduler", "of_yours": 1}, of_yours=2)


def test_accepted_classes_are_on_the_page() -> None:
    part = PAGE.read_text().partition("## Which schedulers\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\w+Scheduler)`", part.partition("\n\nOthers")[0])
    assert sorted(listed) == sorted(ACCEPTED)
