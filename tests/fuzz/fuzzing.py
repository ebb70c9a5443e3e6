"""Readers, what they are fed, and what counts as a crash.

A reader is a function of bytes that may succeed or raise a ``UserError``, and nothing else: not within its memory
(address space is limited), not after ``PATIENCE`` seconds, and not by way of a failed allocation or a full stack that
was turned into a ``UserError`` at the last moment.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import langevin.nn
from langevin import Noise, data, models, processes
from langevin._errors import UserError
from langevin.adapters.pickles import convert
from langevin.data import DataInfo, Dataset, Split, images
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.generate import Rank, Recipe, Request, Shards
from langevin.models.solvers import solvers_of
from langevin.models.variances import variances_of
from langevin.storage import files, untrusted
from langevin.tasks.compress import compress, container, decompress
from langevin.tasks.compress.images import check_items
from langevin.training import checkpoint
from langevin.training.config import Config, NetworkConfig, ProcessConfig
from langevin.training.learner import Learner
from langevin.training.resolve import build, resolve_config

CORPUS = Path(__file__).parent / "corpus"
SPACE = 2**30 * 3
"""Bytes of address space a worker may take beyond what it has after its imports."""
PATIENCE = 10
"""Seconds for an input."""


class Crash(Exception):
    """What must not come out of a reader."""


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        run: reads the bytes.
        seeds: files it accepts.
        seal: repairs checksums, so that what a mutation changed is looked at.
        json: whether they are JSON, and values of other types are to be put into them.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    seal: Callable[[bytes], bytes] = bytes
    json: bool = False


def restrain() -> None:
    """Limit this process: a large allocation fails, and what the project takes for its memory is a third of that."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, used + SPACE))
    untrusted.memory = lambda: SPACE // 3
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def ask(reader: Reader, content: bytes) -> str:
    """What a reader makes of bytes: ``accepted`` or ``refused``.

    Raises:
        Crash: for anything else, with how it came about.
    """

    def late(*_: object) -> None:
        raise Crash(f"no answer after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        reader.run(content)
        return "accepted"
    except (UserError, images.Refused) as error:
        chained: BaseException | None = error
        while chained is not None:
            if isinstance(chained, Crash):
                raise chained from None
            short = isinstance(chained, RuntimeError) and "alloc" in str(chained)
            if short or isinstance(chained, (MemoryError, RecursionError)):
                raise Crash(f"{type(chained).__name__} behind: {error}") from error
            chained = chained.__cause__ or chained.__context__
        return "refused"
    except Crash:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Crash(f"{type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(reader: Reader, content: bytes) -> str | None:
    """``None``, or what went wrong."""
    try:
        ask(reader, content)
    except Crash as crash:
        return str(crash)
    return None


# What is read.


def _even(network: torch.nn.Module) -> None:
    """The same weights on every machine: fractions with small denominators."""
    with torch.no_grad():
        for k, p in enumerate(network.parameters()):
            p.copy_((((torch.arange(p.numel()) * 37 + k) % 101 - 50).float() / 512).reshape(p.shape))


def _points() -> Dataset:
    x = ((torch.arange(60).reshape(30, 2) * 29) % 31).float() / 16 - 1
    cov = torch.tensor([[0.5, 0.125], [0.125, 0.25]], dtype=torch.float64)
    info = DataInfo("dots", (2,), None, None, ("a", "b", "c"), mean=torch.zeros(2, dtype=torch.float64), cov=cov)
    label = torch.arange(30) % 3
    return Dataset(info, Split(x[:20], {"label": label[:20]}), Split(x[20:], {"label": label[20:]}))


def _model() -> NetworkDenoiser:
    network = langevin.nn.create_network(
        {"name": "mlp", "channels": 2, "width": 8, "depth": 1, "conditions": {"label": 3}}
    )
    _even(network)
    config = {"steps": 4, "config": {"objective": {"dropout": {"label": 0.1}}}}
    return NetworkDenoiser(
        network, processes.VP(), AffineParameterization("v", 0.7), (2,), data=_points().info, config=config
    )


def _pictures() -> NetworkDenoiser:
    config = {"name": "unet", "channels": 1, "size": (4, 4), "width": 8, "multipliers": (1,), "attention": ()}
    network = langevin.nn.create_network(config)
    _even(network)
    info = DataInfo("marks", (1, 4, 4), levels=17)
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("v", 0.7), (1, 4, 4), data=info)


def _unsealed(folder: Path) -> None:
    """Leave the checksums of the other files out of ``config.json``, as one may: what is in them is looked at then."""
    held = json.loads((folder / "config.json").read_text())
    del held["files"]
    (folder / "config.json").write_bytes(_json(held))


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _npz(**held: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **held)
    return buffer.getvalue()


def _npy(held: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, held)
    return buffer.getvalue()


def _picture(kind: str, mode: str = "RGB", **how: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **how)
    return buffer.getvalue()


SOLVER = {
    "langevin": 2,
    "kind": "learned-solver",
    "steps": 2,
    "process": processes.VP().to_dict(),
    "guidance_scale": 1.0,
    "label": "in turn",
    "frame": {"std": 0.5, "largest": 0.6},
    "assumed": None,
    "errors": {"before": 0.2, "after": 0.1},
    "made": {"n": 256, "trained_steps": 4},
    "start": 4.0,
    "nodes": [4.0, 0.0],
    "end": None,
    "shifts": [0.0, 0.0],
    "own": [[0.0], [0.1, 0.2]],
    "before": [[0.0], [0.1, 0.2]],
}


def readers() -> dict[str, Reader]:
    """All readers, over one folder of good files that is written anew."""
    root = Path(tempfile.mkdtemp(prefix="langevin-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    dots, dataset = _model(), _points()
    models.save(dots, root / "dots")
    vae = langevin.nn.create_network(
        {"name": "vae", "channels": 1, "size": [4, 4], "width": 8, "multipliers": [1], "blocks": 1}
    )
    models.save(models.Autoencoder(vae, _pictures().data), root / "codec")
    run = root / "run"
    config = resolve_config(
        replace(Config(), batch=4, network=NetworkConfig("mlp", {"width": 8, "depth": 1})), dataset.info
    )
    torch.manual_seed(0)
    denoiser, objective = build(config, dataset.info)
    learn = lambda: Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=4)
    made = learn()
    made.step(dataset.train.batch(torch.arange(4)), Noise(0, 4), number=1, rate=0.01)
    saved = checkpoint.save(run, made, made.tensors(), checkpoint.Progress(step=1), config, dataset.info)

    for folder in ("dots", "codec"):
        _unsealed(root / folder)

    def beside(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        """Read a folder in which one file is replaced."""
        copy = Path(tempfile.mkdtemp(dir=root)) / folder.name
        shutil.copytree(folder, copy)
        (copy / name).parent.mkdir(exist_ok=True)

        def read_it(content: bytes) -> object:
            (copy / name).write_bytes(content)
            return read(copy)

        return read_it

    def alone(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        path = Path(tempfile.mkdtemp(dir=root)) / f"x{suffix}"

        def read_it(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        return read_it

    load = lambda folder: models.load(folder, device="cpu")

    def resumed(folder: Path) -> object:
        names = (checkpoint.MODEL, checkpoint.AVERAGE, checkpoint.OPTIMISER, checkpoint.STATE)
        files.seal(folder, {name: files.digest((folder / name).read_bytes()) for name in names})
        state = checkpoint.read_state(folder)
        with untrusted.reading(folder / checkpoint.STATE):
            kept = Config.from_dict(state["config"])
        checkpoint.weighs(folder, kept)
        return checkpoint.restore(folder, learn())

    def trained(content: bytes) -> object:
        asked = resolve_config(Config.from_dict(untrusted.parse_json(content)), dataset.info)
        return build(asked, dataset.info)

    def picture(content: bytes) -> object:
        images.upright_size(content)
        images.decode(content, None, None, False)
        return images.decode(content, 8, 3, True)

    marks = _pictures()

    def received(content: bytes) -> object:
        header = container.read_header(content)[0]
        check_items(header.items, header.count, header.shape)
        return decompress(marks, content)

    levels = (torch.arange(32).reshape(2, 1, 4, 4) * 7) % 17
    coded = [compress(marks, levels, step=0.4, items=[("a.png", 4, 4), ("b/c.png", 3, 4)])]
    coded += [compress(marks, levels)]
    other = [processes.DDPM([0.1, 0.2]), processes.Learned((-9.0, 4.0)), processes.EDM(), processes.Cosine()]
    held = json.loads((root / "dots" / "config.json").read_text())
    text = root / "words"
    letters = DataInfo("abc", (6,), None, None, tokens=("a", "b", "c", "d"))
    small = NetworkConfig("transformer", {"width": 8, "depth": 1, "heads": 1})
    tokens = resolve_config(replace(Config(), network=small, process=ProcessConfig("uniform")), letters)
    models.save(build(tokens, letters)[0], text)
    _unsealed(text)
    worded = json.loads((text / "config.json").read_text())
    chains = [worded["process"], processes.DiscretisedGaussian(4, 5).to_dict(), {"name": "neighbours", "classes": 4}]
    chains += [{"name": "uniform", "classes": 4, "schedule": "mutual-information"}]
    knots = {"log_snr": [-4.0, 0.0, 4.0], "gamma": [0.9, 0.5, 0.1], "stderr": [0.1] * 3, "error": [0.3, 0.2, 0.1]}
    about = {"langevin": 2, "kind": "calibration", "low": None, "high": None, "made": {"trained_steps": 4}}
    head = langevin.nn.create_network({"name": "mlp", "channels": 6, "out_channels": 2, "width": 8, "depth": 1})
    headed = {"langevin": 2, "kind": "variance-head", "head": "sn", "network": head.config, "sigma_data": 0.5}
    headed |= {"low": None, "high": None, "trained_steps": 4, "training": {}}
    (root / "headed" / "sn").mkdir(parents=True)
    shutil.copytree(root / "dots", root / "headed", dirs_exist_ok=True)
    files.write(root / "headed" / "sn" / "model.safetensors", files.as_safetensors(head.state_dict()))
    weights = (root / "dots" / "model.safetensors").read_bytes()
    x, label = np.linspace(-1, 1, 96, dtype=np.float32).reshape(6, 16), np.arange(6) % 3
    grey = (np.arange(6 * 4 * 4) % 251).astype(np.uint8).reshape(6, 4, 4)
    deflated = io.BytesIO()
    np.savez_compressed(deflated, x=x, label=label)
    asked = [{}, {"process": {"name": "ddpm"}, "prediction": {"name": "eps"}, "objective": {"name": "min-snr"}}]
    asked += [config.to_dict(), {"network": {"name": "mlp", "options": {"width": "16"}}, "budget": {"minutes": 1}}]
    asked += [{"objective": {"name": "vlb", "times": "importance"}, "ema": {"kind": "constant"}}]
    state = (saved / checkpoint.STATE).read_bytes()
    kinds = [("PNG", {}), ("PNG", {"mode": "P"}), ("PNG", {"mode": "LA"}), ("JPEG", {}), ("GIF", {}), ("BMP", {})]
    kinds += [("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("PPM", {}), ("TGA", {}), ("ICO", {}), ("PCX", {})]
    planted = root / "tree"

    def planted_folder(content: bytes) -> object:
        shutil.rmtree(planted, ignore_errors=True)
        _plant(planted, content)
        return data.load(planted, progress=False)

    part, request = Rank(), Request(6, 4, "in turn", Recipe(batch=2), (2,), "m")
    request.claim(root / "shards", part)
    Shards(root / "shards").write(0, torch.ones(4, 2), torch.arange(4), {"evaluations": 2}, part)
    picked, older = io.BytesIO(), io.BytesIO()
    state_dict = {"model": {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2).half()}, "epoch": 3}
    torch.save(state_dict, picked)
    torch.save(state_dict, older, _use_new_zipfile_serialization=False)
    return {
        "config": Reader(
            beside(root / "dots", "config.json", load),
            tuple(_json({**held, "process": p.to_dict()}) for p in (dots.process, *other)),
            json=True,
        ),
        "config-tokens": Reader(
            beside(text, "config.json", load), tuple(_json({**worded, "process": c}) for c in chains), json=True
        ),
        "weights": Reader(beside(root / "dots", "model.safetensors", load), (weights,)),
        "moments": Reader(
            beside(root / "dots", "data.safetensors", load), ((root / "dots" / "data.safetensors").read_bytes(),)
        ),
        "codec": Reader(
            beside(root / "codec", "config.json", lambda p: models.load(p, device="cpu")),
            ((root / "codec" / "config.json").read_bytes(),),
            json=True,
        ),
        "solver": Reader(
            beside(root / "dots", "solver-2.json", lambda p: solvers_of(p, {"trained_steps": 4})),
            (_json(SOLVER),),
            json=True,
        ),
        "calibration": Reader(
            beside(root / "dots", "calibration.json", lambda p: variances_of(p, dots)),
            (_json({**about, **knots}),),
            json=True,
        ),
        "head": Reader(
            beside(root / "headed", "sn/config.json", lambda p: variances_of(p, dots)), (_json(headed),), json=True
        ),
        "state": Reader(beside(saved, checkpoint.STATE, resumed), (state,), json=True),
        "checkpoint": Reader(beside(saved, checkpoint.MODEL, resumed), ((saved / checkpoint.MODEL).read_bytes(),)),
        "training-config": Reader(trained, tuple(map(_json, asked)), json=True),
        "samples": Reader(alone(".npz", data.samples), (_npz(x=x, label=label), deflated.getvalue()), seal=_zipped),
        "request": Reader(
            beside(root / "shards", "shards.json", Shards), ((root / "shards" / "shards.json").read_bytes(),), json=True
        ),
        "shard": Reader(
            beside(root / "shards", "shard-00000.npz", lambda p: Shards(p).read(0)),
            ((root / "shards" / "shard-00000.npz").read_bytes(),),
            seal=_zipped,
        ),
        "array": Reader(
            alone(".npy", lambda p: data.load(p, progress=False)), (_npy(x), _npy(grey), _npy(x.astype(">f8")))
        ),
        "archive": Reader(
            alone(".npz", lambda p: data.load(p, progress=False)), (_npz(x=x, label=label), _npz(x=grey)), seal=_zipped
        ),
        "image": Reader(picture, tuple(_picture(kind, **how) for kind, how in kinds), seal=_chunks),
        "pickle": Reader(
            alone(".pt", lambda p: convert(p, p.with_suffix(".safetensors"))), (picked.getvalue(), older.getvalue())
        ),
        "folder": Reader(planted_folder, (bytes([2] * 12), bytes([0, *[2] * 9, 1, 8, *[2] * 9, 1, 4, 5, 12, 20]))),
        "compressed": Reader(received, tuple(made.content for made in coded), seal=_summed),
    }


NAMES = (b"a", b"b", b"train", b"test", b"a.png", b"\xff", b"x\ny", "ü".encode(), b" ", b"n" * 255)
LEADS = (b".", b"..", b"/", b"/dev/zero", b"a", b"../a", b"/proc/self/fd/0", b"a.png")


def _plant(root: Path, program: bytes) -> None:
    """A folder grown by a program: a byte is a folder to enter, a picture, a link, a pipe or a broken file."""
    here, depth = os.fsencode(root), 0
    os.makedirs(here)
    good = _picture("PNG")
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


def corpus(name: str) -> list[Path]:
    """The files kept for a reader: what once crashed it, and what showed it something new."""
    return sorted((CORPUS / name).glob("*"))


# What is done to good files.

EXTREMES = ("0", "-1", "1e308", "1000000000000", "9223372036854775808", "18446744073709551615", "0.5", "1e-320")
PARTS = (b"null", b"true", b'"x"', b"[]", b"{}", b'"\\ud800"', b"NaN", b"1e999", b'"\\u0000"', b"[[[]]]", b"[-1]")


def _summed(content: bytes) -> bytes:
    """A coded file with the length of its header and its checksum made right."""
    start = len(container.MAGIC) + 5
    end = content.find(b"]}", start) if b"residual" not in content else content.find(b"}", content.find(b"residual"))
    if content[: len(container.MAGIC)] != container.MAGIC or end < 0:
        return content
    body = content[:6] + struct.pack("<I", end + 1 - start) + content[start:-8]
    return body + hashlib.blake2b(body, digest_size=8).digest()


def _zipped(content: bytes) -> bytes:
    """An archive packed again, with the checksums of what is in it now."""
    found = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
            for info in old.infolist():
                # What lies behind the local header, whatever its checksum says.
                at = info.header_offset + 30 + len(info.filename)
                new.writestr(info.filename, content[at : at + info.compress_size])
    except Exception:
        return content
    return found.getvalue()


def _chunks(content: bytes) -> bytes:
    """A PNG with the checksums of its chunks made right."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return content
    at, out = 8, [content[:8]]
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        body = content[at + 4 : at + 8 + length]
        out.append(content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(out)


def mutate(content: bytes, draw: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """One change: bytes cut, flipped, doubled, spliced; a number, in text or in binary, replaced by an extreme one."""
    if not content:
        return bytes([draw.randrange(256)])
    place = draw.randrange(len(content))
    match draw.randrange(9):
        case 0:
            return content[:place]
        case 1:
            changed = bytearray(content)
            for _ in range(draw.choice((1, 1, 4, 16))):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            return bytes(changed)
        case 2:
            end = place + draw.choice((1, 2, 8, 64))
            return content[:place] + content[end:]
        case 3:
            end = place + draw.choice((1, 8, 64))
            return content[:end] + content[place:end] * draw.choice((1, 2, 100)) + content[end:]
        case 4 if others:
            other = draw.choice(others)
            return content[:place] + other[draw.randrange(len(other) + 1) :]
        case 5:
            size = draw.choice((1, 2, 4, 8))
            value = draw.choice((0, 1, 2**7, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, 2 ** (4 * size), 60_000))
            part = (value % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
            return content[:place] + part + content[place + size :]
        case 6 | 7:
            spots = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", content))
            if spots:
                spot = draw.choice(spots)
                return content[: spot.start()] + draw.choice(EXTREMES).encode() + content[spot.end() :]
        case 8:
            spots = list(re.finditer(rb'"[^"]*"|\[[^\[\]]*\]|true|false|null', content))
            if spots:
                spot = draw.choice(spots)
                return content[: spot.start()] + draw.choice(PARTS) + content[spot.end() :]
    return content[:place] + bytes([draw.randrange(256)]) + content[place:]


def mutations(reader: Reader, count: int, seed: int = 0) -> Iterator[bytes]:
    """A fixed sequence of mutated files: cut at every k-th byte, then drawn changes, half of them sealed again."""
    draw = random.Random(seed)
    for content in reader.seeds:
        few = max(1, count // 4 // len(reader.seeds))
        yield from (content[:end] for end in range(0, len(content), max(1, len(content) // few)))
    for _ in range(count):
        content = draw.choice(reader.seeds)
        for _ in range(draw.choice((1, 1, 2, 4))):
            content = mutate(content, draw, reader.seeds)
        yield reader.seal(content) if draw.random() < 0.5 else content
