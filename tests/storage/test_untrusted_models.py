"""Models whose files claim what they do not hold, or ask for more than there is: refused before memory is taken."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from langevin import data, models, nn, processes
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.storage import files, safetensors_io, untrusted

# Tensors.


def model(**changes: Any) -> NetworkDenoiser:
    info = data.DataInfo("dots", (2,), mean=torch.zeros(2).double(), cov=torch.eye(2).double())
    network = nn.create_network({"name": "mlp", "channels": 2, "width": 8, "depth": 1})
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("v", 0.7), (2,), data=info, **changes)


def header(entries: Any, behind: int = 0, length: int | None = None) -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(behind)


def entry(shape: Any, span: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": span}}


TENSORS = [
    header({}, length=2**63),
    header({}, length=2**64 - 1),
    header({}, length=2**30, behind=100),
    header(entry([10**12], [0, 4 * 10**12])),
    header(entry([2**62, 4], [0, 16]), 16),
    header(entry([10**12], [0, 16]), 16),
    header(b"{}" + b" " * 2**24),
    header(entry([2**47, 2**47, 0], [0, 0])),
    header(entry([4], [0, 12]), 16),
    header(entry([4], [4, 20]), 20),
    header(entry([4], [0, 16]), 20),
    header(entry([-4], [0, 16]), 16),
    header(entry([4.0], [0, 16]), 16),
    header(entry([4], [0, 16], "C64"), 16),
    header(entry([4], [0, 16], ["F32"]), 16),
    header(entry("4", [0, 16]), 16),
    header({**entry([4], [0, 16]), "v": entry([4], [8, 24])["w"]}, 24),
    header({"w": 3}),
    header([1, 2]),
    header(b'{"w": {}, "w": {}}'),
    header(b"[" * 10_000),
    header(b"\xff" * 100),
    b"\0" * 7,
    b"",
]


@pytest.mark.parametrize("content", TENSORS, ids=range(len(TENSORS)))
def test_tensors_that_claim_what_the_file_does_not_hold(content: bytes, tmp_path: Path, limited: None) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    for read in (files.outline, files.read_safetensors):
        with pytest.raises(UserError, match=r"w\.safetensors is truncated or no safetensors file"):
            read(tmp_path / "w.safetensors")


def test_more_tensors_than_any_network_has(tmp_path: Path, monkeypatch: Any) -> None:
    """They are counted before the header is parsed, and again after, as their keys may be spelt with escapes."""
    many = {f"t{i}": entry([1], [4 * i, 4 * i + 4])["w"] for i in range(2**16 + 1)}
    text = json.dumps(many, separators=(",", ":"))
    for spelt, parsed in ((text, False), (text.replace("data_", "data\\u005f"), True)):
        asked: list[int] = []
        parse = untrusted.parse_json
        monkeypatch.setattr(safetensors_io, "parse_json", lambda content: asked.append(1) or parse(content))  # noqa: B023
        (tmp_path / "w.safetensors").write_bytes(header(spelt.encode(), 4 * len(many)))
        with pytest.raises(UserError, match=r"it holds 65537 tensors; at most 65536 are accepted"):
            files.outline(tmp_path / "w.safetensors")
        assert bool(asked) == parsed
    few = {name: many[name] for name in list(many)[:1000]}
    (tmp_path / "w.safetensors").write_bytes(header(few, 4000))
    assert len(files.outline(tmp_path / "w.safetensors")) == 1000


def test_the_outline_is_what_is_read(tmp_path: Path) -> None:
    held = {"a": torch.ones(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(2), "d": torch.ones(5).bfloat16()}
    save_file(held, tmp_path / "w.safetensors", metadata={"format": "pt"})
    outline, tensors = files.outline(tmp_path / "w.safetensors"), files.read_safetensors(tmp_path / "w.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in outline.items()} == {k: (v.shape, v.dtype) for k, v in held.items()}
    assert all(v.device.type == "meta" for v in outline.values())
    assert all(torch.equal(tensors[k], held[k]) for k in held)


# Sizes that a configuration asks for.

Change = Callable[[dict[str, Any]], Any]
HUGE: dict[str, tuple[Change, str]] = {
    "width": (lambda c: c["network"].update(width=10**9), "width must be an integer from 1 to 16384"),
    "depth": (lambda c: c["network"].update(depth=10**6), "depth must be an integer from 1 to 256"),
    "parameters": (lambda c: c["network"].update(width=2**14, depth=256), "parameters, at most 1e\\+10"),
    "weights": (lambda c: c["network"].update(width=2**12, depth=8), "does not match its configuration"),
    "table": (
        lambda c: c.update(process={"name": "discretised-gaussian", "classes": 2, "steps": 10**12}),
        r"steps \* classes\^2 must be at most 67108864",
    ),
    "classes": (
        lambda c: c.update(process={"name": "absorbing", "classes": 10**12}),
        "classes must be at most 1048576",
    ),
    "neighbours": (
        lambda c: c.update(process={"name": "neighbours", "classes": 10**6}),
        "classes must be at most 1024",
    ),
    "shape": (lambda c: c.update(shape=[2**40]), "at most 268435456 numbers in all"),
    "levels": (lambda c: c["data"].update(levels=2**60), "at most 65536"),
    "option": (lambda c: c["process"].update(beta_mxa=1), r"process 'vp' has no 'beta_mxa'\. Did you mean 'beta_max'"),
    "type": (
        lambda c: c["parameterization"].update(sigma_data="0.5"),
        "parameterization.sigma_data must be a number, got '0.5'",
    ),
    "data": (lambda c: c["data"].update(shpae=[2]), "Did you mean 'shape'"),
    "source": (lambda c: c["data"].update(source={"path": "/"}), r"data\.source has no 'path'"),
    "steps": (lambda c: c.update(training={"steps": "many"}), "training.steps must be an integer or null"),
    "moments": (lambda c: c.update(moments=3), "moments must be a list of texts"),
    "top": (lambda c: c.update(netwrok=c.pop("network")), "has unknown netwrok. Did you mean 'network'"),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_model_that_asks_for_too_much(what: str, tmp_path: Path, limited: None) -> None:
    change, why = HUGE[what]
    models.save(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    begun = time.monotonic()
    with pytest.raises(UserError, match=why):
        models.load(tmp_path)
    assert time.monotonic() - begun < 10


def test_weights_are_compared_before_the_network_is_made(tmp_path: Path, monkeypatch: Any) -> None:
    """No tensor of the size that a configuration asks for is made while the file has another."""
    models.save(model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["width"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    made: list[Any] = []
    monkeypatch.setattr(nn, "create_network", lambda *args: made.append(args))
    monkeypatch.setattr(files, "read_safetensors", lambda *args: made.append(args))
    with pytest.raises(UserError, match="does not match its configuration"):
        models.load(tmp_path)
    assert not made


@pytest.mark.parametrize(
    ("said", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "2000"}, 2000),  # as a container sees its own group
        ("0::/a/b\n", {"a/memory.max": "3000", "a/b/memory.max": "max"}, 3000),  # a group around it has the limit
        ("0::/a/b\n", {"a/memory.max": "3000", "a/b/memory.max": "1000"}, 1000),
        ("5:cpu:/x\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "4000"}, 4000),  # version 1
        ("4:memory:/gone\n", {"memory/memory.limit_in_bytes": "5000"}, 5000),
        ("0::/../../other\n", {}, None),
        ("no groups", {"memory.max": "max"}, None),
    ],
)
def test_a_containers_share_of_memory_counts(
    said: str, limits: dict[str, str], expected: int | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(untrusted, "CGROUPS", tmp_path)
    monkeypatch.setattr(untrusted, "OWN_CGROUP", tmp_path / "cgroup")
    unlimited = untrusted.memory()
    (tmp_path / "cgroup").write_text(said)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert untrusted.memory() == (unlimited if expected is None else expected)


def test_a_network_larger_than_memory_is_not_made(monkeypatch: Any) -> None:
    monkeypatch.setattr(untrusted, "memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"network mlp with .* parameters would take .* MiB of memory, at most 922 KiB"):
        nn.create_network({"name": "mlp", "width": 512})


def test_loaded_weights_are_their_own(tmp_path: Path) -> None:
    """The weights take the file's place in the network: trainable, and not a view of the file."""
    models.save(model(), tmp_path)
    loaded = models.load(tmp_path, device="cpu")
    want = save({k: v.contiguous() for k, v in loaded.network.state_dict().items()})
    (tmp_path / "model.safetensors").write_bytes(bytes((tmp_path / "model.safetensors").stat().st_size))
    assert save({k: v.contiguous() for k, v in loaded.network.state_dict().items()}) == want
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.network.parameters())
