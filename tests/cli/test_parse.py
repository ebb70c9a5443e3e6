"""Options: what is not known, missing or wrong is said in one line, with the nearest name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

import pytest
from tyro.conf import Positional, arg

from langevin import UserError
from langevin.cli.parse import parse
from langevin.training import Config


@dataclass(frozen=True)
class Part:
    """A group."""

    rate: float = 1.0
    """Its rate."""


@dataclass(frozen=True)
class Options:
    """Do something."""

    place: Annotated[Positional[str], arg(metavar="PLACE")]
    """Where; not --nowhere."""
    n: Annotated[int, arg(aliases=("-n",))] = 3
    """How many."""
    crop: Literal["center", "random"] = "center"
    """How."""
    flip: bool = False
    """Whether."""
    most: int | None = None
    """At most."""
    least: float | None = None
    """At least."""
    pairs: dict[str, str] = field(default_factory=dict)
    """Settings."""
    group: Part = field(default_factory=Part)


def ask(*words: str) -> Options | None:
    return parse("langevin do", Options, list(words))


def test_words_become_options() -> None:
    assert ask("here") == Options("here")
    assert ask("here", "-n", "5", "--flip", "--group.rate", "2") == Options("here", 5, "center", True, group=Part(2.0))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["here", "--corp", "random"], "unknown option '--corp'. Did you mean '--crop'?"),
        (["here", "--corp=random"], "unknown option '--corp'. Did you mean '--crop'?"),
        (["here", "--rate", "2"], "unknown option '--rate'. Did you mean '--group.rate'?"),
        (["--corp", "random", "here"], "unknown option '--corp'. Did you mean '--crop'?"),
        (["here", "there"], "unexpected argument 'there'."),
        ([], "PLACE must be given."),
        (["here", "-n", "three"], "--n must be an integer, got 'three'. `"),
        (["here", "-n", "1.5"], "--n must be an integer, got '1.5'. `"),
        (["here", "-n", "it's"], '--n must be an integer, got "it\'s". `'),
        (["here", "--group.rate", "fast"], "--group.rate must be a number, got 'fast'. `"),
        (["here", "--most", "abc"], "--most must be an integer, got 'abc'. `"),
        (["here", "--least", "abc"], "--least must be a number, got 'abc'. `"),
        (["here", "--pairs", "key"], "--pairs must be followed by pairs, KEY VALUE. `"),
        (["here", "--crop", "centre"], "--crop cannot be 'centre'. Did you mean 'center'? Known: center, random. `"),
        ([""], "an argument must not be empty, got ''. `"),
        (["  "], "an argument must not be empty, got '  '. `"),
        (["here", "--crop", ""], "--crop must not be empty, got ''. `"),
        (["here", "--crop="], "--crop must not be empty, got ''. `"),
        (["here", "--crop", "left"], "'left'"),
        (["here", "-n"], "-n/--n"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        ask(*words)
    text = str(error.value)
    assert said in text
    assert "\n" not in text
    assert "│" not in text
    assert text.endswith("`langevin do --help` lists the options.")
    assert capsys.readouterr().err == ""


def test_an_option_far_from_all_names_none() -> None:
    with pytest.raises(UserError, match=r"unknown option '--zzzzzz'\. `langevin do"):
        ask("here", "--zzzzzz")


def test_help_prints_and_gives_nothing_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("here", "--help") is None
    said = capsys.readouterr()
    assert "Do something." in said.out
    assert said.err == ""


def test_every_setting_of_a_training_run_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    from langevin.cli import train

    assert parse("langevin train", train.Options, ["--help"]) is None
    text = capsys.readouterr().out
    for part in fields(Config):
        value = getattr(Config(), part.name)
        inner = fields(value) if hasattr(value, "__dataclass_fields__") else []
        prefix = "" if part.name in ("budget", "work", "start") else f"{part.name}."
        if part.name == "start":  # --from, and a checksum that nobody types
            inner = [each for each in inner if each.name not in ("model", "weights")]
            assert "--from" in text
        for name in [prefix + each.name for each in inner] or [part.name]:
            group, _, last = name.replace("_", "-").rpartition(".")
            dot = "." if group else ""
            assert f"--{group}{dot}{last}" in text or f"--{group}{dot}no-{last}" in text, name


def test_settings_arrive_at_the_trainer() -> None:
    from langevin.cli import train

    line = "digits --out runs/x --steps 5 --seed 3 --ema.width 0.2 --size 8 --flip --optimiser.betas 0.8 0.9"
    options = parse("langevin train", train.Options, line.split())
    assert options is not None
    config = options.config()
    assert type(config) is Config
    assert (config.seed, config.budget.steps, config.ema.width) == (3, 5, 0.2)
    assert config.optimiser.betas == (0.8, 0.9)
    assert vars(options.data) == {
        "size": 8,
        "channels": None,
        "flip": True,
        "crop": "center",
        "limit": None,
        "degrade": None,
        "text_encoder": None,
        "streaming": False,
    }
