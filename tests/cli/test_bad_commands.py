"""Over two hundred calls that nobody means: exit code 2, one sentence on standard error, and nothing left behind.

They are run one after another in a folder of what people give by mistake: files for folders, folders for files, links
to nothing, data for models and models for data, files cut short, and models of somebody else.

It is one file, of more than 400 lines, since it is one table of command lines and the few tests that go through it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUIET
from said import Run

from langevin.cli.entry import COMMANDS

LONG = "x" * 300

CALLS = r"""
# the way in
smaple
--verbose
trian digits --out o
sample --help-me
help-me

# train: data
train
train digits
train --out o
train '' --out o
train '  ' --out o
train digts --out o
train nowhere/at/all --out o
train text.txt --out o
train /dev/null --out o
train dangling --out o
train loop --out o
train folder --out o
train MODEL --out o
train empty.npy --out o
train scalar.npy --out o
train letters.npy --out o
train objects.npy --out o
train cut.npy --out o
train cut.npz --out o
train nan.npy --out o
train huge.npy --out o
train tiny.npy --out o
train constant.npy --out o
train one.npy --out o
train photos --out o --size 0
train photos --out o --size -8
train photos --out o --size big
train photos --out o --size 8192
train photos --out o --size 20000
train photos --out o --size 1000000000000
train photos --out o --channels 2
train photos --out o --crop middle
train points.npy --out o --size 8
train photos --out o --limit 0
train digits moons --out o
train digits --out o --limit 1 --steps 1
train LONG --out o
train ~nobody-of-that-name/photos --out o

# train: where to
train digits --out ''
train digits --out text.txt
train digits --out text.txt/below
train digits --out dangling
train digits --out dangling/below
train digits --out LONG
train digits --out MODEL
train digits --out o --resume

# train: how
train digits --out o --steps abc
train digits --out o --steps 1.5
train digits --out o --steps ''
train digits --out o --steps=
train digits --out o --steps 0
train digits --out o --steps 99999999999999999999999
train digits --out o --minutes soon
train digits --out o --minutes nan
train digits --out o --minutes inf
train digits --out o --seed -1
train digits --out o --seed 1e3
train digits --out o --batch 1000000000000
train digits --out o --optimiser.lr nan
train digits --out o --optimiser.betas 0.9
train digits --out o --network.name unt
train digits --out o --network.options width
train digits --out o --network.options widht 8
train digits --out o --network.options width wide
train digits --out o --process.options foo 1
train digits --out o --objective.name nothing
train digits --out o --recipe ncsnv3
train digits --out o --device cuda:99
train digits --out o --stesp 5
train digits --out o --work.accumulate 0
train digits --out o --lora 4
train digits --out o --from nowhere/at/all
train digits --out o --from text.txt
train digits --out o --from MODEL --codec MODEL
train digits --out o --from MODEL --network.name dit
train digits --out o --from MODEL --lora 0
train digits --out o --from MODEL --lora 2 --layers nothing
train digits --out o --from MODEL --caption apple

# sample: the model
sample
sample ''
sample nothing
sample text.txt
sample folder
sample dangling
sample LONG
sample digits
sample photos
sample diffusers-pipeline
sample diffusers-model
sample not-json
sample weights-cut
sample weights-gone
sample a/b/c

# sample: how
sample MODEL --out text.txt
sample MODEL --out dangling
sample MODEL --out ''
sample MODEL extra
sample MODEL -n 0
sample MODEL -n many
sample MODEL -n 1.5
sample MODEL -n 1000000000000
sample MODEL -n 99999999999999999999999
sample MODEL --steps abc
sample MODEL --steps -5
sample MODEL --steps 1000000000
sample MODEL --steps 100000000000
sample MODEL --tolerance 0
sample MODEL --tolerance nan
sample MODEL --tolerance fine
sample MODEL --tolerance 1e-2 --steps 5
sample MODEL --tolerance 1e-2 --sampler ancestral
sample MODEL --tolerance 1e-2 --sampler learned
sample MODEL --guidance-scale -500
sample MODEL --guidance-scale 1e30
sample MODEL --guidance-scale nan
sample MODEL --guidance-scale strong
sample MODEL --sampler dpmpp2m
sample MODEL --sampler 'ddim '
sample MODEL --sampler ddim --sampler-options etaa 1
sample MODEL --sampler ddim --sampler-options eta
sample MODEL --sampler ddim --sampler-options eta much
sample MODEL --sampler ddim --sampler-options eta [1]
sample MODEL --sampler ddim --sampler-options eta nan
sample MODEL --sampler-options eta 1
sample MODEL --grid karas
sample MODEL --process nothing
sample MODEL --variance foo
sample MODEL --variance analytic
sample MODEL --seed abc
sample MODEL --seed -1
sample MODEL --label ''
sample MODEL --label dog
sample MODEL --label ²
sample MODEL --label 99999999999999999999999
sample MODEL --batch 0
sample MODEL --shard-size 0
sample MODEL --shard-size 7
sample MODEL --shard-size 256 --rank 3/2
sample MODEL --shard-size 256 --rank first
sample MODEL --rank 0/2
sample MODEL --shard-size 256 -n 1000000000000
sample MODEL --device abacus

# tune, calibrate
tune MODEL
tune MODEL --steps 0
tune MODEL --steps 65
tune MODEL --steps few
tune MODEL --steps 4 -n 0
tune MODEL --steps 4 -n 1000000000000
tune MODEL --steps 4 --minutes nan
tune MODEL --steps 4 --guidance-scale -500
tune MODEL --steps 4 --label dog
tune nothing --steps 4
calibrate
calibrate MODEL -n 8
calibrate MODEL -n 1000000000000
calibrate MODEL --times 1
calibrate MODEL --times 1000000000000
calibrate MODEL --heads foo
calibrate MODEL --heads ''
calibrate MODEL --steps 5
calibrate MODEL points.npy
calibrate MODEL MODEL

# disco, models
disco
disco MODEL MODEL cat --out o
disco MODEL nothing cat --out o
disco nothing MODEL cat --out o
models lst
models show
models show nothing
models path nothing
models add nothing new
models add MODEL 'a name'

# evaluate, likelihood
evaluate
evaluate digits
evaluate on-the-hub
evaluate MODEL -n 4
evaluate MODEL -n 1000000000000
evaluate MODEL --features pixel
evaluate MODEL --features pca:0
evaluate MODEL --data ''
evaluate MODEL --data text.txt
evaluate MODEL --data points.npy
evaluate MODEL --data MODEL
evaluate MODEL --samples folder
evaluate MODEL --samples text.txt
evaluate MODEL --samples points.npy
evaluate MODEL --samples MODEL
evaluate MODEL --samples points.npy -n 9
evaluate MODEL --shard-size 10
evaluate MODEL --out folder
evaluate MODEL --seed -1
likelihood MODEL
likelihood MODEL nothing
likelihood MODEL moons
likelihood MODEL MODEL
likelihood MODEL digits -n 0
likelihood MODEL digits --steps 5
likelihood MODEL digits --bound --steps 1000000000000
likelihood MODEL digits --evaluations 1
likelihood MODEL digits --evaluations 1000000000000
likelihood MODEL digits --probes 1000000000000
likelihood MODEL digits --draws 1000000000000
likelihood MODEL digits --dequantise foo
likelihood MODEL digits --bound --variance foo
likelihood MODEL digits --out text.txt
likelihood nothing digits

# audit
audit
audit nothing
audit nothing:Thing
audit nothing.py:f
audit text.txt:f
audit json:dumps --kind guider
audit diffusers:Nothing
audit diffusers:LCMScheduler
audit diffusers:DDIMScheduler(no_such=1)
audit langevin:dpmpp-2mm
audit langevin:dpmpp-2m(order)
audit langevin:mala
audit langevin:dpmpp-2m(order=9)
audit langevin:dpmpp-2m --checks ordre
audit langevin:dpmpp-2m --process absorbing
audit langevin:dpmpp-2m --options [1]
audit langevin:dpmpp-2m --json .
audit langevin:dpmpp-2m --kind thing
audit langevin.worlds:ring --kind denoiser --world flat
# compare
compare
compare nothing --out o
compare text.txt --out o
compare digits --out o
compare MODEL MODEL --out o
compare MODEL --out text.txt
compare MODEL --samplers ddmi --out o
compare MODEL --samplers ddim ddim --out o
compare MODEL --samplers sscs --out o
compare MODEL --steps 0 --out o
compare MODEL --steps few --out o
compare MODEL --steps 1000000000000 --out o
compare MODEL --guidance-scale nan --out o
compare MODEL --guidance-scale -500 --out o
compare MODEL --label dog --out o
compare MODEL --n 4 --out o
compare MODEL --n 1000000000000 --out o
compare MODEL --tolerance 0 --out o
compare MODEL --tolerance nan --out o
compare MODEL --data points.npy --out o
compare MODEL --seed -1 --out o

# compress, decompress, convert
compress digits --out c
compress digits --out c --model nothing
compress nothing --out c --model MODEL
compress '' --out c --model MODEL
compress text.txt --out c --model MODEL
compress folder --out c --model MODEL
compress points.npy --out c --model MODEL
compress digits --out folder --model MODEL
compress digits --out text.txt/c --model MODEL
compress digits --out c --model MODEL --step 0
compress digits --out c --model MODEL --step early
compress digits --out c --model MODEL --step 0.5 --quality 20
compress digits --out c --model MODEL --quality nan --limit 1
compress digits --out c --model MODEL --limit 0
decompress nothing --out i --model MODEL
decompress text.txt --out i --model MODEL
decompress folder --out i --model MODEL
decompress /dev/zero --out i --model MODEL
decompress text.txt --out text.txt --model MODEL
decompress text.txt --out i --model MODEL --decode foo
decompress LONG --out i --model MODEL
convert folder --out x.safetensors
convert /etc --out x.safetensors
convert nothing --out x.safetensors
convert text.txt --out x.pt
convert text.txt --out x.safetensors
convert empty.pt --out x.safetensors
convert points.npy --out x.safetensors
convert /dev/zero --out x.safetensors
convert dangling --out x.safetensors
convert LONG --out x.safetensors
convert MODEL --out x.safetensors
convert text.txt --out text.txt/x.safetensors

# methods, info, demo
# league
replay
replay nowhere.png
replay photos/0.png --out o
replay text.txt --out o
replay photos --out o
replay photos/0.png --out text.txt
replay photos/0.png --alone maybe
cascade
cascade MODEL --out o
cascade MODEL MODEL --out o
cascade MODEL nowhere --out o
cascade MODEL photos --out o
cascade MODEL MODEL --out text.txt
publish more
publish nowhere --to me/x --out o
publish run --to digits --out o
publish run --to me/x --private --out o
publish run --to me/x --evaluation nowhere.json --out o
publish photos --to me/x --out o
league more
league --quick --solver pigmd --out o
league --quick --solver nowhere.py:mine --out o
league --quick --solver text.txt:mine --out o
league --quick --dims 10 --out o
league --quick --dims 0 --out o
league --quick --operators blurr --out o
league --quick --stds 0 --out o
league --quick --stds nan --out o
league --quick --evaluations 0 --out o
league --quick --n 0 --out o
league --quick --workers 0 --out o
league --quick --seed -1 --out o
league --quick --out text.txt

methods samplers
methods --category sampler
methods --json=3
info nothing
info text.txt
info diffusers-model
info photos
info ../nowhere/x
info '\e[31mred'
info a b
completion
completion tcsh
export
export MODEL
export MODEL --out o --to keras
export MODEL --out o
export MODEL --out photos
export MODEL --out text.txt
export nowhere/at/all --out o
export text.txt --out o
export photos --out o
export diffusers-pipeline --out o
tune diffusers-pipeline --steps 5
demo --steps abc
demo --minutes inf
demo --samples 50
demo --samples 1000000000000
demo --seed -1
demo --out text.txt
demo --out dangling
demo --quick --steps 5
demo extra

# play
play nowhere --no-browser
play run run --no-browser
play photos --no-browser
play --port 65536 --no-browser
play --port -1 --no-browser
play --port many --no-browser
play --host 256.0.0.1 --no-browser

# edit, purify, anomaly
edit
edit photos/0.png
edit photos/0.png --model nowhere
edit nowhere.png --model MODEL
edit text.txt --model MODEL --out o
edit photos --model MODEL --out photos/edited
edit photos --model MODEL --out o --strength 1e9
edit photos --model MODEL --out o --strength -1
edit photos --model MODEL --out o --method blend
edit photos --model MODEL --out o --method blind
edit photos --model MODEL --out o --mask text.txt
edit photos --model MODEL --out o --mask nowhere.png
edit photos --model MODEL --out o --label eleven
edit photos --model MODEL --out o --steps 0
edit photos --model MODEL --out o --sampler ddmi
edit photos --model MODEL --out o --grid karas
edit photos --model MODEL --out o --method-options repeats 0
edit photos --model MODEL --out text.txt
purify
purify photos --out o
purify nowhere.png --model MODEL
purify photos --model MODEL --out o --strength 0
purify photos --model MODEL --out o --sampler ddmi
purify photos --model MODEL --out o --seed -1
anomaly
anomaly photos --out o
anomaly photos --model MODEL --out o --strength 0
anomaly photos --model MODEL --out o --fixed-point -1
anomaly photos --model MODEL --out o --truth nowhere.png

# restore, guide, data
restore
restore photos --model MODEL --out o
restore photos --model MODEL --out o --task sharpen
restore photos --model MODEL --out o --task blur
restore photos --model MODEL --out o --task blur=1 --std nan
restore photos --model MODEL --out o --task blur=1 --method dpss
restore nowhere.png --model MODEL --out o --task blur=1
restore photos --model MODEL --out o --task inpaint --mask nowhere.png
guide
guide MODEL --out o --method nothing
guide MODEL --out o --scale nan
guide MODEL --out o --label 77
guide MODEL --out o --interval 5 1
guide MODEL --out o --method classifier --classifier nowhere
data
data lst
data get
data get nothing
data show nothing
data show digits --count 0
anomaly photos --model MODEL --out o --label eleven
"""


def listed() -> list[str]:
    r"""The lines, without headings; \e stands for an escape character."""
    lines = (line.strip().replace(r"\e", "\x1b") for line in CALLS.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def place(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all of them are typed."""
    here = tmp_path_factory.mktemp("calls")
    shutil.copytree(model, here / "MODEL")
    x = np.random.default_rng(0).standard_normal((90, 2)).astype(np.float32)
    arrays = {
        "points": x,
        "huge": x * 1e20,
        "tiny": x * 1e-9,
        "constant": np.ones_like(x),
        "one": x[:1],
        "empty": x[:0],
    }
    arrays |= {"nan": np.where(x > 2, np.nan, x), "scalar": np.float32(3), "letters": np.array(["a"] * 9)}
    for name, array in arrays.items():
        np.save(here / f"{name}.npy", array)
    np.save(here / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (here / "cut.npy").write_bytes((here / "points.npy").read_bytes()[:-100])
    (here / "cut.npz").write_bytes(b"PK\x03\x04")
    (here / "empty.pt").touch()
    (here / "text.txt").write_text("no picture, no array and no model")
    (here / "folder").mkdir()
    (here / "dangling").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    _photos(here / "photos")
    made = {"diffusers-pipeline/model_index": {"_class_name": "DDPMPipeline"}, "not-json/config": None}
    for name, value in {**made, "diffusers-model/config": {"_class_name": "UNet2DModel"}}.items():
        (here / name).parent.mkdir()
        (here / f"{name}.json").write_text("{" if value is None else json.dumps(value))
    for name in ("weights-cut", "weights-gone", "on-the-hub"):
        shutil.copytree(model, here / name)
    weights = here / "weights-cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (here / "weights-gone" / "model.safetensors").unlink()
    config = json.loads((here / "on-the-hub" / "config.json").read_text())
    config["data"]["source"] = {"source": "hf:somebody/something"}
    (here / "on-the-hub" / "config.json").write_text(json.dumps(config))
    return here


def _photos(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for i in range(5):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")


def _files(folder: Path) -> dict[str, Any]:
    """All that is in a folder: names, sizes, and when they were last written to."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns if path.is_file() else 0)
    return found


LEAKS = ("Traceback", "__init__", "NoneType", "<class", "Error parsing", "invalid literal", "[Errno", "NotImplemented")
"""What a sentence for people has not in it."""


@pytest.mark.parametrize("line", listed())
def test_a_bad_call_is_one_sentence(langevin: Run, place: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(place)
    before, begun = _files(place), time.process_time()
    words = [LONG if word == "LONG" else word for word in shlex.split(line)]
    said = langevin(*words)
    spent = time.process_time() - begun
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    command = words[0] if words[0] in COMMANDS else ""
    assert said.err.startswith(f"langevin {command}: " if command else "langevin: ")
    assert said.err.rstrip("\n").isprintable()
    assert not any(leak in said.err for leak in LEAKS), said.err
    assert _files(place) == before
    # What it takes to find out: imports and files are read, and no training, sampling or decoding begins.
    assert spent < 20


def test_there_are_enough_of_them() -> None:
    assert len(set(listed())) == len(listed()) >= 160
    assert {line.split()[0] for line in listed()} >= set(COMMANDS)


def test_what_somebody_may_mean_is_warned_of(langevin: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    few = ["--steps", 1, "--batch", 2, "--network.options", "width", 8]
    said = langevin("train", "photos", "--out", place / "few", *few, *QUIET)
    assert said.code == 0
    assert "langevin train: warning: photos: 4 examples to train on; a network copies so few" in said.err
    said = langevin("sample", "MODEL", "-n", 2, "--steps", 1, "--guidance-scale", -2, "--out", place / "away")
    assert said.code == 0
    assert "langevin sample: warning: guidance-scale -2 leads away from the label" in said.err
