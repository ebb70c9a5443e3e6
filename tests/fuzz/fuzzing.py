"""Readers, what they are fed, and what counts as a crash.

A reader is a function of bytes that may succeed or raise a ``UserError``, and nothing else: not within its memory
(address space is limited), not after ``PATIENCE`` seconds, and not by way of a failed allocation or a full stack that
was turned into a ``UserError`` at the last moment.
"""

from __future__ import annotations

import atexit
import io
import json
import random
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import damage
import good_files
import numpy as np
import torch

import langevin.nn
from langevin import Noise, data, models, processes
from langevin._errors import UserError
from langevin.adapters.pickles import convert
from langevin.data import DataInfo, images
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


def readers() -> dict[str, Reader]:
    """All readers, over one folder of good files that is written anew."""
    root = Path(tempfile.mkdtemp(prefix="langevin-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    dots, dataset = good_files.model(), good_files.points()
    models.save(dots, root / "dots")
    vae = langevin.nn.create_network(
        {"name": "vae", "channels": 1, "size": [4, 4], "width": 8, "multipliers": [1], "blocks": 1}
    )
    models.save(models.Autoencoder(vae, good_files.image_model().data), root / "codec")
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
        good_files.unseal(root / folder)

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

    marks = good_files.image_model()

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
    good_files.unseal(text)
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
        good_files.plant(planted, content)
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
            tuple(good_files.as_json({**held, "process": p.to_dict()}) for p in (dots.process, *other)),
            json=True,
        ),
        "config-tokens": Reader(
            beside(text, "config.json", load),
            tuple(good_files.as_json({**worded, "process": c}) for c in chains),
            json=True,
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
            (good_files.as_json(good_files.SOLVER),),
            json=True,
        ),
        "calibration": Reader(
            beside(root / "dots", "calibration.json", lambda p: variances_of(p, dots)),
            (good_files.as_json({**about, **knots}),),
            json=True,
        ),
        "head": Reader(
            beside(root / "headed", "sn/config.json", lambda p: variances_of(p, dots)),
            (good_files.as_json(headed),),
            json=True,
        ),
        "state": Reader(beside(saved, checkpoint.STATE, resumed), (state,), json=True),
        "checkpoint": Reader(beside(saved, checkpoint.MODEL, resumed), ((saved / checkpoint.MODEL).read_bytes(),)),
        "training-config": Reader(trained, tuple(map(good_files.as_json, asked)), json=True),
        "samples": Reader(
            alone(".npz", data.samples), (good_files.npz(x=x, label=label), deflated.getvalue()), seal=damage.zipped
        ),
        "request": Reader(
            beside(root / "shards", "shards.json", Shards), ((root / "shards" / "shards.json").read_bytes(),), json=True
        ),
        "shard": Reader(
            beside(root / "shards", "shard-00000.npz", lambda p: Shards(p).read(0)),
            ((root / "shards" / "shard-00000.npz").read_bytes(),),
            seal=damage.zipped,
        ),
        "array": Reader(
            alone(".npy", lambda p: data.load(p, progress=False)),
            (good_files.npy(x), good_files.npy(grey), good_files.npy(x.astype(">f8"))),
        ),
        "archive": Reader(
            alone(".npz", lambda p: data.load(p, progress=False)),
            (good_files.npz(x=x, label=label), good_files.npz(x=grey)),
            seal=damage.zipped,
        ),
        "image": Reader(
            picture, tuple(good_files.picture(kind, **how) for kind, how in kinds), seal=damage.chunks_summed
        ),
        "pickle": Reader(
            alone(".pt", lambda p: convert(p, p.with_suffix(".safetensors"))), (picked.getvalue(), older.getvalue())
        ),
        "folder": Reader(planted_folder, (bytes([2] * 12), bytes([0, *[2] * 9, 1, 8, *[2] * 9, 1, 4, 5, 12, 20]))),
        "compressed": Reader(received, tuple(made.content for made in coded), seal=damage.summed),
    }


def corpus(name: str) -> list[Path]:
    """The files kept for a reader: what once crashed it, and what showed it something new."""
    return sorted((CORPUS / name).glob("*"))


def mutations(reader: Reader, count: int, seed: int = 0) -> Iterator[bytes]:
    """A fixed sequence of mutated files: cut at every k-th byte, then drawn changes, half of them sealed again."""
    draw = random.Random(seed)
    for content in reader.seeds:
        few = max(1, count // 4 // len(reader.seeds))
        yield from (content[:end] for end in range(0, len(content), max(1, len(content) // few)))
    for _ in range(count):
        content = draw.choice(reader.seeds)
        for _ in range(draw.choice((1, 1, 2, 4))):
            content = damage.mutate(content, draw, reader.seeds)
        yield reader.seal(content) if draw.random() < 0.5 else content
