"""What is read is bounded before memory is taken: corners of JSON, types, pipes, links, names, coded files."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_untrusted_models import model

from langevin import data, models
from langevin._errors import UserError
from langevin.storage import files, untrusted
from langevin.training.config import Config

ROOT = Path(__file__).resolve().parents[2]

# JSON.

REFUSED_JSON = [
    ("[" * 33 + "]" * 33, "nested deeper than 32"),
    ("[" * 1_000_000, "nested deeper than 32"),
    ('{"a": ' * 100_000, "nested deeper than 32"),
    ('{"a": 1, "b": 2, "a": 3}', "the key 'a' twice"),
    ("NaN", "NaN, which is no JSON"),
    ("[-Infinity]", "-Infinity, which is no JSON"),
    ("1e999", "1e999, which is too large"),
    (str(2**64), "more than 64 bits"),
    ("-" + "9" * 100_000, "more than 64 bits"),
    ('"\\ud800"', "half a surrogate pair"),
    ('{"\\udfff": 1}', "half a surrogate pair"),
    (b'"\xff"', "not UTF-8"),
    ("{}".encode("utf-16"), "not UTF-8"),
    ("\ufeff{}", "Expecting value|BOM"),
    ("", "Expecting value"),
    ("{} {}", "Extra data"),
    ('"' + "a" * 50, "Unterminated string"),
    (b" " * (untrusted.JSON_BYTES + 1), "at most 33554432 bytes"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED_JSON, ids=range(len(REFUSED_JSON)))
def test_json_that_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(UserError, match=why):
        untrusted.parse_json(text if isinstance(text, bytes) else text.encode())


def test_json_that_is_read() -> None:
    value = {"a": [1, -2.5e-3, "größer \U0001f600 [[[", None, True, {"b": []}], "c": 2**64 - 1, "d": '\\[[["'}
    for ascii_only in (True, False):  # with \u escapes, surrogate pairs among them, and without
        assert untrusted.parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value
    deep = "[" * 32 + "]" * 32
    assert json.dumps(untrusted.parse_json(deep.encode())) == deep


class Key(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        return str.__eq__(self, other)


def test_a_key_twice_is_found_in_one_pass() -> None:
    """The last of n keys stands twice. A table of n keys compares each a few times; one by one it would be n²/2."""
    n = 2000
    Key.compared = 0
    with pytest.raises(UserError, match="the key 'k1999' twice"):
        untrusted._once([(Key(f"k{i}"), i) for i in range(n)] + [(Key(f"k{n - 1}"), 0)])
    assert Key.compared < 10 * n


def test_a_message_about_a_long_file_is_not_long() -> None:
    with pytest.raises(UserError) as raised:
        untrusted.parse_json(('{"' + "x" * 100_000 + '": 1, "' + "x" * 100_000 + '": 2}').encode())
    assert len(str(raised.value)) < 400
    with pytest.raises(UserError, match=r"^shape must be .* 1, 1\)\.$") as raised:
        data.DataInfo("x", (1,) * 100_000)
    assert len(str(raised.value)) < 4100


# Types.


@dataclass(frozen=True)
class Inner:
    width: int = 1


@dataclass(frozen=True)
class Outer:
    count: int = 0
    rate: float | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    flag: bool = False
    inner: Inner = field(default_factory=Inner)


TYPES = [
    ({"cuont": 1}, r"x has no 'cuont'\. Did you mean 'count'\? Known: count, rate"),
    ({"count": 1.0}, "x.count must be an integer, got 1.0"),
    ({"count": True}, "x.count must be an integer, got True"),
    ({"count": None}, "x.count must be an integer, got None"),
    ({"rate": "fast"}, "x.rate must be a number or null, got 'fast'"),
    ({"rate": False}, "x.rate must be a number or null, got False"),
    ({"pair": [1.0]}, "x.pair must be a list of 2 numbers"),
    ({"pair": [1.0, None]}, "x.pair must be a list of 2 numbers"),
    ({"kind": "c"}, "x.kind must be 'a' or 'b', got 'c'"),
    ({"kind": ["a"]}, "x.kind must be 'a' or 'b'"),
    ({"names": "abc"}, "x.names must be a list of texts, got 'abc'"),
    ({"flag": 1}, "x.flag must be true or false, got 1"),
    ({"inner": {"widht": 1}}, r"x\.inner has no 'widht'\. Did you mean 'width'"),
    ({"inner": {"width": []}}, r"x\.inner\.width must be an integer"),
    ({"inner": 3}, "x.inner must be a mapping, got 3"),
    ([], "x must be a mapping"),
]


@pytest.mark.parametrize(("values", "why"), TYPES)
def test_settings_of_a_wrong_type(values: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        untrusted.settings(Outer, values, "x")


def test_settings_that_fit() -> None:
    given = {"count": 3, "rate": 2, "pair": [1, 2.5], "names": ["a"], "inner": {"width": 4}}
    assert Outer(**untrusted.settings(Outer, given, "x")) == Outer(3, 2, (1, 2.5), "a", ("a",), False, Inner(4))


CONFIGS = [
    ({"optimser": {}}, r"config has no 'optimser'\. Did you mean 'optimiser'"),
    ({"optimiser": {"rl": 1}}, r"config\.optimiser has no 'rl'\. Did you mean 'lr'"),
    ({"batch": "many"}, "config.batch must be an integer or null, got 'many'"),
    ({"optimiser": {"betas": "no"}}, "config.optimiser.betas must be a list of 2 numbers"),
    ({"network": {"options": [1]}}, "config.network.options must be a mapping"),
    ({"precision": "float8"}, "config.precision must be 'auto' or 'float32' or 'bfloat16'"),
]


@pytest.mark.parametrize(("values", "why"), CONFIGS)
def test_a_training_configuration_is_of_its_types(values: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Config.from_dict(values)


# Files that are none.


def test_a_pipe_and_a_device_are_not_opened(tmp_path: Path) -> None:
    """Reading either would wait, or never end."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "zero")
    begun = time.monotonic()
    for name in ("pipe", "zero", "."):
        with pytest.raises(UserError, match="no regular file"):
            untrusted.contents(tmp_path / name)
    for place in ("config.json", "model.safetensors", "data.safetensors"):
        models.save(model(), tmp_path / "m")
        (tmp_path / "m" / place).unlink()
        os.mkfifo(tmp_path / "m" / place)
        with pytest.raises(UserError, match=f"{place} is no regular file"):
            models.load(tmp_path / "m")
        (tmp_path / "m" / place).unlink()
        (tmp_path / "m" / place).mkdir()
        with pytest.raises(UserError, match=place):
            models.load(tmp_path / "m")
        (tmp_path / "m" / place).rmdir()
    for suffix in (".npy", ".npz"):
        os.mkfifo(tmp_path / f"x{suffix}")
        with pytest.raises(UserError):
            data.load(tmp_path / f"x{suffix}")
    assert time.monotonic() - begun < 5


# Coded images.


def test_a_coded_file_that_would_write_outside_its_folder() -> None:
    from langevin.tasks.compress.images import check_items

    good = [("a.png", 4, 4), ("b/c.png", 4, 4)]
    check_items(good, 2, (1, 4, 4))
    for name in (
        "/a",
        "../a",
        "a/../../b",
        "a\\b",
        "c:a",
        "a\0",
        "a\nb",
        "\x1b[2J",
        "a//b",
        "a/",
        "./a",
        "x" * 300,
        "",
    ):
        with pytest.raises(UserError, match="the file names an image"):
            check_items([(name, 4, 4)], 1, (1, 4, 4))
    with pytest.raises(UserError, match="an image and a folder"):
        check_items([("a", 4, 4), ("a.png/b", 4, 4)], 2, (1, 4, 4))


def test_a_coded_header_that_claims_a_thousand_times_its_file(limited: None) -> None:
    from langevin.tasks.compress.container import Header, pack, read_header, unpack

    plain = Header("0" * 16, (1, 4, 4), 17, 1, (), 0, (0.9, 0.5), (16,), (), (), 0)
    large = Header("0" * 16, (2**10, 2**10, 2**9), 17, 8, (), 0, (0.9, 0.5), (16,), (), (), 0)
    for header in (plain, large):
        layout = header.layouts()[0]
        content = pack(header, [torch.zeros(layout.paths, layout.blocks, dtype=torch.int64)], b"")
        assert read_header(content)[0] == header
        if header is plain:
            unpack(content)
        else:
            with pytest.raises(UserError, match=r"8 images of shape \(1024, 1024, 512\) would take .* of memory"):
                unpack(content)


def test_what_a_terminal_would_obey_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from langevin.cli.entry import main

    assert main(["convert", "a\x1b[2J\x07b.pt", "--out", "w.safetensors"]) == 2
    said = capsys.readouterr().err
    assert said == "langevin convert: there is no file a\ufffd[2J\ufffdb.pt\n"


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 2)))
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=name):
            data.samples(tmp_path / name)
    with pytest.raises(UserError, match=r"none\.json is missing"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="no name and no path"):
        data.load("x" * 5000)


def test_the_limits_in_the_docs_are_those_of_the_code():
    rows = re.findall(r"^\| ([\d,.]+) \| .* \| `([\w.]+)` \|$", (ROOT / "docs" / "safety.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for number, name in rows:
        module, _, constant = name.rpartition(".")
        assert float(number.replace(",", "")) == getattr(importlib.import_module(f"langevin.{module}"), constant), name
