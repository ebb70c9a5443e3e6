"""Samples in shards: the same samples whoever draws them, however often they are killed, whatever the disk did.

It is one file, of more than 400 lines, since its tests read, damage and measure the same seven shards, which are drawn
once.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from said import Run

from langevin import UserError
from langevin.generate import Rank, Shards

WORDS = ["-n", 100, "--steps", 2, "--batch", 16]
"""Seven batches, the last one not full: products of fewer than 16 rows add in another order on many a processor."""


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shards of one process that nobody interrupted."""
    from langevin.cli import main

    out = tmp_path_factory.mktemp("shards") / "whole"
    words = ["sample", model, *WORDS, "--shard-size", 16, "--out", out]
    assert main([str(word) for word in words]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def joined(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = list(Shards(folder))
    return np.concatenate([x.numpy() for x, _ in parts]), np.concatenate([y.numpy() for _, y in parts])


def test_shards_hold_the_samples_of_one_call(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    assert langevin("sample", model, *WORDS, "--out", tmp_path / "one").code == 0
    x, label = joined(whole)
    with np.load(tmp_path / "one" / "samples.npz") as one:
        # Full batches are the same work. The four samples left over stand in a batch of 16 here and of four there: a
        # few units of 2^-24 a layer, as for any other batch.
        assert np.array_equal(x[:96], one["x"][:96])
        assert np.abs(x - one["x"]).max() < 1e-4
        assert np.array_equal(label, one["label"])
    with np.load(whole / "shard-00006.npz") as last:  # by any reader
        assert np.array_equal(last["x"], x[96:])
        assert last["label"].tolist() == [6, 7, 8, 9]
    record = json.loads((whole / "sample.json").read_text())
    assert (record["n"], record["evaluations"], record["label"], record["drawn_otherwise"]) == (100, 2, "in turn", [])
    assert sorted(record["shards"]) == [f"shard-{k:05d}.npz" for k in range(7)]
    assert (whole / "grid.png").exists()


@pytest.mark.parametrize("size", [32, 48, 112])
def test_samples_do_not_depend_on_the_cut(langevin: Run, model: Path, whole: Path, tmp_path: Path, size: int) -> None:
    """Bit for bit: a sample stands in the same full batch in shards of any size, and in any n."""
    assert langevin("sample", model, *WORDS, "--shard-size", size, "--out", tmp_path / "a").code == 0
    assert np.array_equal(joined(tmp_path / "a")[0], joined(whole)[0])
    assert langevin("sample", model, *WORDS, "-n", 53, "--shard-size", size, "--out", tmp_path / "b").code == 0
    assert np.array_equal(joined(tmp_path / "b")[0], joined(whole)[0][:53])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_another_batch_moves_samples_by_rounding(
    langevin: Run, model: Path, whole: Path, tmp_path: Path, batch: int
) -> None:
    words = [*WORDS[:-1], batch, "--shard-size", 16, "--out", tmp_path]
    assert langevin("sample", model, *words).code == 0
    # Sums of at most 9·32 products in another order, 20 layers, 2 steps: 40·√288·2^-24 = 4e-5 of values of order 1.
    assert np.abs(joined(tmp_path)[0] - joined(whole)[0]).max() < 1e-4


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_parts_in_any_order_write_the_same_files(
    langevin: Run, model: Path, whole: Path, tmp_path: Path, parts: int
) -> None:
    """Nine parts are more than there are shards: some have nothing to do."""
    order = [1, *range(2, parts), 0]
    for place, part in enumerate(order):
        assert not (tmp_path / "sample.json").exists()
        said = langevin("sample", model, *WORDS, "--shard-size", 16, "--rank", f"{part}/{parts}", "--out", tmp_path)
        assert said.code == 0
        assert ("still to come" in said.out) == (place < parts - 1), said.out
    assert contents(tmp_path) == contents(whole)


def test_a_launcher_says_which_rank_is_ours(
    langevin: Run, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert langevin("sample", model, *WORDS, "--shard-size", 16, "--out", tmp_path).code == 0
        assert len(list(tmp_path.glob("shard-*"))) == (4, 7)[int(rank)]
    assert contents(tmp_path) == contents(whole)
    said = langevin("sample", model, *WORDS, "--out", tmp_path / "one")
    assert said.code == 2
    assert "shard-size must be given where several processes share the work, got rank 1/2" in said.err


def test_processes_of_a_machine_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from langevin.cli import sample

    monkeypatch.setattr(sample, "device_named", lambda name: name)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "5")
    for there, name in ((True, "cuda:1"), (False, None)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert sample.own_device(None) == name
        assert sample.own_device("cpu") == "cpu"


def test_whole_shards_are_kept_and_the_others_drawn_again(
    langevin: Run, model: Path, whole: Path, tmp_path: Path
) -> None:
    """One gone, one of no bytes, one cut off, one with a bit turned, one of another place, one of another request."""
    shutil.copytree(whole, out := tmp_path / "out")
    path = Shards(out).path
    path(0).unlink()
    path(1).write_bytes(b"")
    path(2).write_bytes(path(2).read_bytes()[:-40])
    content = bytearray(path(3).read_bytes())
    content[len(content) // 2] ^= 1
    path(3).write_bytes(content)
    shutil.copy(path(5), path(4))
    assert langevin("sample", model, *WORDS, "--shard-size", 16, "--seed", 1, "--out", tmp_path / "other").code == 0
    shutil.copy(Shards(tmp_path / "other").path(5), path(5))
    (out / "sample.json").unlink()
    (out / "grid.png").unlink()
    before = path(6).stat().st_ino
    said = langevin("sample", model, *WORDS, "--shard-size", 16, "--out", out)
    assert said.code == 0
    assert "7 shards, 6 of them drawn now" in said.out
    assert path(6).stat().st_ino == before
    assert contents(out) == contents(whole)
    assert "0 of them drawn now" in langevin("sample", model, *WORDS, "--shard-size", 16, "--out", out).out


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["--seed", 1], "seed is 0 there and 1 here"),
        (["-n", 101], "n is 100 there and 101 here"),
        (["--shard-size", 32], "shard_size is 16 there and 32 here"),
        (["--batch", 8, "--steps", 3], "steps is 2 there and 3 here; batch is 16 there and 8 here"),
        (["--label", 3], "label is 'in turn' there and 3 here"),
        (["--sampler", "ddim", "--sampler-options", "eta", "0.5"], "sampler is None there and 'ddim' here; options"),
        (["--guidance-scale", 2], "guidance_scale is 1.0 there and 2.0 here"),
    ],
)
def test_another_request_is_refused(langevin: Run, model: Path, whole: Path, words: list[object], phrase: str) -> None:
    before = contents(whole)
    said = langevin("sample", model, *WORDS, "--shard-size", 16, *words, "--out", whole)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"{whole} holds shards of another request: " in said.err
    assert phrase in said.err
    assert contents(whole) == before


def test_another_model_is_another_request(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(model, other := tmp_path / "model")
    (other / "evaluation.json").write_text("{}")  # what was found of it is no part of it
    shutil.copytree(whole, out := tmp_path / "out")
    words = [*WORDS, "--shard-size", 16, "--out", out]
    assert langevin("sample", other, *words).code == 0
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "training": {**config["training"], "steps": 4}}))
    said = langevin("sample", other, *words)
    assert said.code == 2
    assert "another request: model is " in said.err


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (
            ["--shard-size", 10],
            "shard-size must be a multiple of batch, got 10 and 16: samples are drawn in full",
        ),
        (["--shard-size", 10], "--batch 10 will do"),
        (["--shard-size", 0], "shard_size must be an integer of at least 1"),
        (["--shard-size", 16, "--rank", "3/3"], "rank must be I/K with I in 0…K-1, got 3/3"),
        (["--shard-size", 16, "--rank", "one"], "rank must be I/K with I in 0…K-1, as in 0/3, got 'one'"),
        (["--rank", "0/2"], "shard-size must be given"),
        (["-n", 2**31 + 1, "--shard-size", 16], "n must be an integer in 1…2147483648"),
        (["--sampler", "ddim", "--grid", "leading", "--shard-size", 16], "grid 'leading'"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_written(
    langevin: Run, model: Path, tmp_path: Path, words: list[object], phrase: str
) -> None:
    out = tmp_path / "out"
    said = langevin("sample", model, *WORDS, *words, "--out", out)
    assert said.code == 2
    assert phrase in said.err
    assert not out.exists()


def test_shards_and_one_file_do_not_mix(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    said = langevin("sample", model, *WORDS, "--out", whole)
    assert said.code == 2
    assert "out holds shards" in said.err
    assert langevin("sample", model, "-n", 2, "--steps", 1, "--out", tmp_path).code == 0
    said = langevin("sample", model, *WORDS, "--shard-size", 16, "--out", tmp_path)
    assert said.code == 2
    assert "drawn without shards" in said.err


def hostile() -> dict[str, bytes]:
    """Shards that are none, by what is wrong with them."""
    text = lambda words: np.frombuffer(words.encode(), np.uint8)
    good = {"x": np.zeros((16, 1, 8, 8), np.float32), "label": np.zeros(16, np.int64), "about": text("{}")}

    def saved(save=np.savez, **changes: object) -> bytes:
        save(buffer := io.BytesIO(), **{**good, **changes})
        return buffer.getvalue()

    huge = io.BytesIO()
    with zipfile.ZipFile(huge, "w") as archive, archive.open("x.npy", "w") as member:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
        np.lib.format.write_array_header_1_0(member, header)
    return {
        "text": b"no archive",
        "empty": saved(x=np.zeros((0,), np.float32)),
        "a bomb": saved(np.savez_compressed, x=np.zeros((16, 1, 8, 8, 1000), np.float32)),
        "a pickle": saved(x=np.array([{}] * 16)),
        "a header of 2^62 bytes": huge.getvalue(),
        "no record": saved(about=text("[]")),
        "a record that is no JSON": saved(about=text("{")),
        "another digest": saved(about=text(json.dumps({"sha256": "0" * 64, "record": {}}))),
        "too long": saved(more=np.zeros(10**6)),
    }


@pytest.mark.parametrize("what", hostile())
def test_hostile_shards_are_damaged_ones(whole: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(whole, out := tmp_path / "out")
    shards = Shards(out)
    shards.path(2).write_bytes(hostile()[what])
    with pytest.raises(UserError, match=r"shard-00002.npz (is damaged|must be at most)") as said:
        shards.read(2)
    if what in ("a bomb", "a header of 2^62 bytes"):
        assert "its header says" in str(said.value)
    assert not shards.whole(2)
    assert shards.whole(3)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 2**40}, {"n": -1}, {"n": "100"}, {"shard_size": 0}, {"shard_size": 7}, {"recipe": []},
        {"recipe": {"batch": 0}}, {"shape": [0]}, {"shape": "big"}, {"label": []}, {"model": None}, {"more": 1},
        {"langevin": 2}, {"kind": "codec"},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_requests_are_refused(whole: Path, tmp_path: Path, change: dict[str, object]) -> None:
    held = json.loads((whole / "shards.json").read_text())
    if isinstance(change.get("recipe"), dict):
        change = {"recipe": {**held["recipe"], **change["recipe"]}}  # type: ignore[dict-item]
    (tmp_path / "shards.json").write_text(json.dumps({**held, **change}))
    with pytest.raises(UserError, match=r"shards\.json"):
        Shards(tmp_path)
    (tmp_path / "shards.json").write_text(json.dumps({**held, "recipe": {**held["recipe"], "seed": float("nan")}}))
    with pytest.raises(UserError, match=r"shards\.json"):
        Shards(tmp_path)


def test_parts_share_out_every_shard_once() -> None:
    for of in (1, 2, 3, 7):
        taken = [k for index in range(of) for k in range(Rank(index, of).index, 20, of)]
        assert sorted(taken) == list(range(20))


def test_one_rank_is_of_one_process(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    """Another rank may work beside it; the same is refused with the number of the process that is at it."""
    from langevin.storage import files

    words = ["sample", model, *WORDS, "--shard-size", 16, "--out", tmp_path, "--rank"]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with files.lock(tmp_path / ".rank-0-of-2"):
            os.write(write, b"!")
            signal.pause()
    try:
        os.read(read, 1)
        said = langevin(*words, "0/2")
        assert said.code == 2
        assert f"in use by process {child} on" in said.err
        assert langevin(*words, "1/2").code == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert langevin(*words, "0/2").code == 0
    assert contents(tmp_path) == contents(whole)  # and nothing else is left


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_torchrun(model: Path, whole: Path, tmp_path: Path, processes: int) -> None:
    words = ["-m", "langevin", "sample", model, *WORDS, "--shard-size", 16, "--out", tmp_path]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(w) for w in launch], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = contents(tmp_path), contents(whole)
    assert {k: v for k, v in ours.items() if k != "sample.json"} == {
        k: v for k, v in theirs.items() if k != "sample.json"
    }


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_killed_at_random_times(tmp_path: Path, parts: int) -> None:
    """SIGKILL to all the processes of a call, twenty times: no whole shard is lost or drawn twice, none is another."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import shards

    for what, good, tried in shards.torture(tmp_path, 20, parts):
        assert good == tried > 0, what


def peak(words: list[object]) -> float:
    """Peak resident memory of a command line in a process of its own, in MiB."""
    line = [sys.executable, "-m", "langevin", *map(str, words)]
    child = os.spawnve(os.P_NOWAIT, sys.executable, line, {**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_maxrss / 2**10  # Linux counts KiB


@pytest.mark.slow
def test_memory_does_not_grow_with_n(model: Path, tmp_path: Path) -> None:
    """A hundred thousand images need what five thousand need: 24 MiB of pixels more would show."""
    words = ["sample", model, "--steps", 1, "--shard-size", 1024]
    few, many = (peak([*words, "-n", n, "--out", tmp_path / str(n)]) for n in (5000, 100_000))
    assert len(Shards(tmp_path / "100000").missing()) == 0
    print(f"peak resident memory: {few:.0f} MiB of 5,000 images, {many:.0f} MiB of 100,000")
    assert many <= 1.1 * few


MEASURE = ["--seed", 4, "--features", "pixels"]


def measured(out: Path) -> dict[str, object]:
    found = json.loads(out.read_text())["measures"]
    assert len(found) == 8
    return found


def test_shards_measure_as_the_file_does(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    x, label = joined(whole)
    np.savez(tmp_path / "samples.npz", x=x, label=label)
    for name, samples in {"file": tmp_path / "samples.npz", "shards": whole}.items():
        words = ["--samples", samples, *MEASURE, "--out", tmp_path / f"{name}.json"]
        said = langevin("evaluate", model, *words)
        assert said.code == 0, said.err
        assert "100 samples" in said.out
    assert measured(tmp_path / "shards.json") == measured(tmp_path / "file.json")
    assert json.loads((tmp_path / "shards.json").read_text())["samples"]["shard_size"] == 16


def test_shards_that_are_not_whole_are_not_measured(langevin: Run, model: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, out := tmp_path / "out")
    path = Shards(out).path
    words = ["evaluate", model, "--samples", out, "--out", tmp_path / "found.json"]
    path(5).write_bytes(path(5).read_bytes()[:-1])
    said = langevin(*words)
    assert said.code == 2
    assert "shard-00005.npz is damaged" in said.err
    assert "draws again what is not whole" in said.err
    path(5).unlink()
    path(3).unlink()
    said = langevin(*words)
    assert said.code == 2
    assert f"samples {out} lack 2 of 7 shards, shard-00003.npz the first" in said.err
    assert not (tmp_path / "found.json").exists()
    said = langevin("evaluate", model, "--samples", tmp_path)
    assert said.code == 2
    assert "holds no shards" in said.err


def test_evaluate_draws_shards_and_shares_the_work(
    langevin: Run, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, words = tmp_path / "out", [*WORDS, "--shard-size", 16, "--samples", tmp_path / "out", *MEASURE]
    words = [*words[:-4], "--features", "pixels"]  # one seed is that of samples and measures
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    said = langevin("evaluate", model, *words, "--out", tmp_path / "two.json")
    assert said.code == 0
    assert "rank 1/2 is done; rank 0 measures" in said.out
    assert not (tmp_path / "two.json").exists()
    monkeypatch.setenv("RANK", "0")
    assert langevin("evaluate", model, *words, "--out", tmp_path / "two.json").code == 0
    assert {k: v for k, v in contents(whole).items() if k.startswith("shard")} == contents(out)
    said = langevin("evaluate", model, "-n", 20)
    assert said.code == 2
    assert "shard-size must be given where several processes share the work, got rank 0/2" in said.err
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    words = ["--samples", whole, "--features", "pixels", "--out", tmp_path / "one.json"]
    assert langevin("evaluate", model, *words).code == 0
    assert measured(tmp_path / "one.json") == measured(tmp_path / "two.json")
    said = langevin("evaluate", model, *WORDS, "--shard-size", 16)
    assert said.code == 2
    assert "give --samples" in said.err


@pytest.mark.slow
def test_evaluate_under_torchrun(model: Path, whole: Path, tmp_path: Path) -> None:
    words = ["-m", "langevin", "evaluate", model, *WORDS, "--shard-size", 16, "--samples", tmp_path / "out"]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, *words, "--features", "pixels"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, *map(str, words), "--out", str(tmp_path / "found.json")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(measured(tmp_path / "found.json")) == 8
    assert {k: v for k, v in contents(whole).items() if k.startswith("shard")} == contents(tmp_path / "out")
