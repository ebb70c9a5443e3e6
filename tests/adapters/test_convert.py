"""Foreign pickles: tensors come out, code does not run, and one place of the project alone could run it."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from langevin import data, models
from langevin._errors import UserError
from langevin.adapters.pickles import convert
from langevin.cli import main
from langevin.storage import pickles

SOURCE = Path(__file__).parents[2] / "src" / "langevin"
STATE = {"stem.weight": torch.arange(6.0).reshape(2, 3), "stem.bias": torch.ones(2, dtype=torch.bfloat16)}


class Malicious:
    """Unpickling makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def saved(path: Path, value: object, **how: Any) -> Path:
    torch.save(value, path, **how)
    return path


@pytest.mark.parametrize("new", [True, False])
def test_a_state_dict_comes_out_as_it_is(tmp_path: Path, new: bool) -> None:
    value = OrderedDict(STATE, tied=STATE["stem.weight"].T)
    out = tmp_path / "w.safetensors"
    about = convert(saved(tmp_path / "w.pt", value, _use_new_zipfile_serialization=new), out)
    assert about == {"key": "", "tensors": 3, "numbers": 14, "left_out": []}
    found = load_file(out)
    assert found.keys() == value.keys()
    assert all(torch.equal(found[k], value[k]) and found[k].dtype == value[k].dtype for k in value)


def test_one_of_several_is_chosen_by_its_key(tmp_path: Path) -> None:
    value = {"state_dict": STATE, "nested": {"ema": {k: 2 * v for k, v in STATE.items()}}, "epoch": 7, "note": "x"}
    path, out = saved(tmp_path / "w.ckpt", value), tmp_path / "w.safetensors"
    with pytest.raises(UserError, match=r"2 mappings of tensors; choose one with --key: .*nested/ema \(2 tensors\)"):
        convert(path, out)
    with pytest.raises(UserError, match=r"has no 'nested/emma'\. Did you mean 'nested/ema'"):
        convert(path, out, key="nested/emma")
    assert not out.exists()
    assert convert(path, out, key="nested/ema")["tensors"] == 2
    assert torch.equal(load_file(out)["stem.weight"], 2 * STATE["stem.weight"])
    assert convert(saved(path, {**STATE, "epoch": 7}), out)["left_out"] == ["epoch"]


def malicious(tmp_path: Path, canary: Path) -> dict[str, Path]:
    """The same attack in every file that torch or pickle may be handed."""
    value = {"state_dict": STATE, "extra": Malicious(canary)}
    made = {
        "new": saved(tmp_path / "new.pt", value),
        "old": saved(tmp_path / "old.pth", value, _use_new_zipfile_serialization=False),
    }
    for protocol in range(6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(Malicious(canary), protocol=protocol))
        made[f"protocol {protocol}"] = tmp_path / f"{protocol}.pkl"
    # A name that is put together from pieces that look harmless; the stack holds others than were pushed last.
    text = b"\x80\x04\x8c\x02os\x8c\x05mkdir\x8c\x0bcollections\x8c\x0bOrderedDict00\x93"
    (tmp_path / "stack.pkl").write_bytes(text + b"\x8c" + bytes([len(str(canary))]) + str(canary).encode() + b"\x85R.")
    made["popped"] = tmp_path / "stack.pkl"
    return made


def test_nothing_of_a_malicious_pickle_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary, out = tmp_path / "canary", tmp_path / "w.safetensors"
    files = malicious(tmp_path, canary)
    # The attack is real: what is guarded against does run where nothing guards.
    pickle.loads(files["popped"].read_bytes())
    assert canary.is_dir()
    canary.rmdir()
    for name, path in files.items():
        with pytest.raises(UserError) as refused:
            convert(path, out)
        assert name == "popped" or "would run posix.mkdir" in str(refused.value).replace("nt.", "posix."), name
        for key in ("state_dict", "extra"):
            with pytest.raises(UserError):
                convert(path, out, key=key)
        assert main(["convert", str(path), "--out", str(out)]) == 2
    # The list alone would do, without the second fence that torch puts up.
    for name, path in files.items():
        if name == "popped":
            with pytest.raises(UserError, match="in a way that no pickler writes"):
                pickles.foreign(path)
        else:
            assert any(found.endswith(".mkdir") for found in pickles.foreign(path)), name
    assert not canary.exists()
    assert not out.exists()
    assert "Nothing was run" in capsys.readouterr().err


def test_no_other_reader_unpickles(tmp_path: Path) -> None:
    """The file in the place of every other that is read."""
    canary = tmp_path / "canary"
    attack = malicious(tmp_path, canary)
    folder = tmp_path / "model"
    held = np.array([Malicious(canary)], dtype=object)
    np.save(tmp_path / "x.npy", held, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=held)
    for path in (*attack.values(), tmp_path / "x.npy", tmp_path / "x.npz"):
        content = path.read_bytes()
        for name in ("config.json", "model.safetensors", "data.safetensors", "solver-4.json", "calibration.json"):
            models.save(tiny(), folder)
            (folder / name).write_bytes(content)
            with pytest.raises(UserError):
                models.load(folder)
            (folder / name).unlink()
        for suffix in (".npy", ".npz"):
            (tmp_path / f"y{suffix}").write_bytes(content)
            with pytest.raises(UserError):
                data.load(tmp_path / f"y{suffix}")
            with pytest.raises(UserError):
                data.samples(tmp_path / f"y{suffix}")
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / "a.png").write_bytes(content)
        with pytest.raises(UserError):
            data.load(tmp_path / "photos")
        (tmp_path / "coded").write_bytes(content)
        assert main(["decompress", str(tmp_path / "coded"), "-o", str(tmp_path / "out"), "--model", str(folder)]) == 2
    assert not canary.exists()


def tiny() -> Any:
    from langevin import nn, processes
    from langevin.denoisers import AffineParameterization, NetworkDenoiser

    info = data.DataInfo("dots", (2,), mean=torch.zeros(2).double(), cov=torch.eye(2).double())
    network = nn.create_network({"name": "mlp", "channels": 2, "width": 8, "depth": 1})
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("v", 0.7), (2,), data=info)


def test_run_code_runs_it_in_another_process_after_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, out = tmp_path / "canary", tmp_path / "w.safetensors"
    path = malicious(tmp_path, canary)["new"]
    assert main(["convert", str(path), "--out", str(out), "--run-code"]) == 0
    said = capsys.readouterr()
    assert "its author's code runs now" in said.err
    assert "the file's code was run" in said.out
    assert canary.is_dir()
    assert load_file(out).keys() == STATE.keys()
    network = saved(tmp_path / "module.pkl", {"ema": torch.nn.Linear(2, 3), "step": 4})
    with pytest.raises(UserError, match=r"would run .*torch\.nn\.modules\.linear\.Linear"):
        convert(network, out)
    assert convert(network, out, run_code=True)["key"] == "ema"
    assert load_file(out)["weight"].shape == (3, 2)
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"a": np.ones(3)})[:-4])
    with pytest.raises(UserError, match=r"cut\.pkl cannot be unpickled"):
        convert(tmp_path / "cut.pkl", out, run_code=True)
    assert load_file(out)["weight"].shape == (3, 2)  # as before, whole


def test_what_is_no_pickle_of_tensors_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="no mapping of tensors"):
        convert(saved(tmp_path / "a.pt", {"epoch": 3}), out)
    with pytest.raises(UserError, match="more than the file holds"):  # a terabyte in a file of a kilobyte
        convert(saved(tmp_path / "b.pt", {"w": torch.zeros(1).expand(2**38)}), out)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "c.pt")
    with pytest.raises(UserError, match="TorchScript, which is a program"):
        convert(tmp_path / "c.pt", out)
    with zipfile.ZipFile(saved(tmp_path / "d.pt", STATE), "a") as held, pytest.warns(UserWarning, match="Duplicate"):
        held.writestr("d/data.pkl", b"other")
    with pytest.raises(UserError, match="a name twice"):
        convert(tmp_path / "d.pt", out)
    (tmp_path / "e.pt").write_bytes(b"no pickle")
    with pytest.raises(UserError, match=r"e\.pt cannot be read"):
        convert(tmp_path / "e.pt", out)
    assert main(["convert", str(tmp_path / "a.pt"), "--out", str(tmp_path / "w.bin")]) == 2
    assert main(["convert", str(tmp_path / "none.pt"), "--out", str(out)]) == 2
    assert not out.exists()


def test_what_is_called_is_listed_without_a_call(tmp_path: Path) -> None:
    assert pickles.foreign(saved(tmp_path / "a.pt", STATE)) == []
    assert "torch._utils._rebuild_tensor_v2" in pickles.called(tmp_path / "a.pt")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([len, Path("x"), np.ones(2)]))
    found = pickles.foreign(tmp_path / "b.pkl")
    assert "builtins.len" in found
    assert any(name.startswith("pathlib.") for name in found)


UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"torch.load", "np.load", "numpy.load", "torch.hub.load", "torch.jit.load", "pd.read_pickle", "yaml.load"}


def unsafe(tree: ast.AST) -> list[str]:
    """Imports and calls that could run what a file holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in UNSAFE]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [str(node.module)] * ((node.module or "").partition(".")[0] in UNSAFE)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] * (name in CALLS | LOADERS or name.endswith(".__reduce__"))
        found += [k.arg for k in getattr(node, "keywords", []) if k.arg in ("allow_pickle", "trust_remote_code")]
    return found


def test_the_source_unpickles_in_one_place() -> None:
    found = {str(p.relative_to(SOURCE)): unsafe(ast.parse(p.read_text())) for p in SOURCE.rglob("*.py")}
    found = {name: names for name, names in found.items() if names}
    assert found.keys() == {"adapters/pickles.py"}
    assert sorted(found["adapters/pickles.py"]) == ["pickle", "torch.load", "torch.load"]
    assert unsafe(ast.parse("import pickle\neval(x)\nnp.load(p, allow_pickle=True)")) == [
        "pickle",
        "eval",
        "np.load",
        "allow_pickle",
    ]
