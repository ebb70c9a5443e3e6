"""Good files of every kind that is read, as small as they can be, and folders with everything in them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import langevin.nn
from langevin import processes
from langevin.data import DataInfo, Dataset, Split
from langevin.denoisers import AffineParameterization, NetworkDenoiser


def even(network: torch.nn.Module) -> None:
    """The same weights on every machine: fractions with small denominators."""
    with torch.no_grad():
        for k, p in enumerate(network.parameters()):
            p.copy_((((torch.arange(p.numel()) * 37 + k) % 101 - 50).float() / 512).reshape(p.shape))


def points() -> Dataset:
    x = ((torch.arange(60).reshape(30, 2) * 29) % 31).float() / 16 - 1
    cov = torch.tensor([[0.5, 0.125], [0.125, 0.25]], dtype=torch.float64)
    info = DataInfo("dots", (2,), None, None, ("a", "b", "c"), mean=torch.zeros(2, dtype=torch.float64), cov=cov)
    label = torch.arange(30) % 3
    return Dataset(info, Split(x[:20], {"label": label[:20]}), Split(x[20:], {"label": label[20:]}))


def model() -> NetworkDenoiser:
    network = langevin.nn.create_network(
        {"name": "mlp", "channels": 2, "width": 8, "depth": 1, "conditions": {"label": 3}}
    )
    even(network)
    config = {"steps": 4, "config": {"objective": {"dropout": {"label": 0.1}}}}
    return NetworkDenoiser(
        network, processes.VP(), AffineParameterization("v", 0.7), (2,), data=points().info, config=config
    )


def image_model() -> NetworkDenoiser:
    config = {"name": "unet", "channels": 1, "size": (4, 4), "width": 8, "multipliers": (1,), "attention": ()}
    network = langevin.nn.create_network(config)
    even(network)
    info = DataInfo("marks", (1, 4, 4), levels=17)
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("v", 0.7), (1, 4, 4), data=info)


def unseal(folder: Path) -> None:
    """Leave the checksums of the other files out of ``config.json``, as one may: what is in them is looked at then."""
    held = json.loads((folder / "config.json").read_text())
    del held["files"]
    (folder / "config.json").write_bytes(as_json(held))


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def npz(**held: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **held)
    return buffer.getvalue()


def npy(held: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, held)
    return buffer.getvalue()


def picture(kind: str, mode: str = "RGB", **how: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **how)
    return buffer.getvalue()


SOLVER = {
    "langevin": 3,
    "kind": "learned-solver",
    "steps": 2,
    "process": processes.VP().to_dict(),
    "guidance_scale": 1.0,
    "label": "in turn",
    "frame": {"std": 0.5, "largest": 0.6},
    "assumed": None,
    "widened": 1.0,
    "errors": {"before": 0.2, "after": 0.1},
    "made": {"n": 256, "trained_steps": 4},
    "start": 4.0,
    "nodes": [4.0, 0.0],
    "end": None,
    "shifts": [0.0, 0.0],
    "own": [[0.0], [0.1, 0.2]],
    "before": [[0.0], [0.1, 0.2]],
}


NAMES = (b"a", b"b", b"train", b"test", b"a.png", b"\xff", b"x\ny", "ü".encode(), b" ", b"n" * 255)
LEADS = (b".", b"..", b"/", b"/dev/zero", b"a", b"../a", b"/proc/self/fd/0", b"a.png")


def plant(root: Path, program: bytes) -> None:
    """A folder grown by a program: a byte is a folder to enter, a picture, a link, a pipe or a broken file."""
    here, depth = os.fsencode(root), 0
    os.makedirs(here)
    good = picture("PNG")
    for k, byte in enumerate(program[:64]):
        what, which = byte % 8, byte // 8
        name = os.path.join(here, NAMES[which % len(NAMES)] + (b"" if what in (0, 4) else b"%d" % k)[:5])
        try:
            if what == 0 and depth < 8:
                os.makedirs(name, exist_ok=True)
                here, depth = name, depth + 1
            elif what == 1 and depth:
                here, depth = os.path.dirname(here), depth - 1
            elif what == 4:
                os.symlink(LEADS[which % len(LEADS)], name)
            elif what == 5:
                os.mkfifo(name)
            elif what in (2, 3, 6, 7):
                with open(name, "xb") as file:
                    file.write(good[: {2: None, 3: 10 + which, 6: 0, 7: -which - 1}[what]])
        except OSError:  # a name that is taken, or too long
            continue
