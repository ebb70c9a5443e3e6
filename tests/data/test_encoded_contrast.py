"""A contrastive encoder of pictures and of the features of another text encoder, from the command line to guidance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_text_encoders import network, pictures, saved

import langevin
from langevin.cli import main
from langevin.data.text_features import TextFeatures
from langevin.guidance import similarity

pytest.importorskip("transformers")


def test_from_the_command_line_to_guidance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The words of a command become features by the encoder that the data name, and the samples are the library's."""
    words, data = saved(tmp_path / "bert", network("bert")), pictures(tmp_path / "pictures", 120)
    small = ["--batch", "8", "--network.options", "image", '{"width": 8}', "--output.sample-every", "0"]
    out, drawn = tmp_path / "run", tmp_path / "drawn"
    told = ["train", str(data), "--text-encoder", str(words), "--steps", "2"]
    assert main([*told, "--objective.name", "contrastive", *small, "--out", str(out)]) == 0
    assert "langevin evaluate" in capsys.readouterr().out
    assert main(["evaluate", str(out)]) == 0
    found = json.loads((out / "evaluation.json").read_text())["measures"]
    assert found["caption of a picture"]["protocol"]["among"] >= 2
    model = tmp_path / "model"
    assert main(["train", str(data), "--steps", "1", "--batch", "8", "--network.options", "width", "8", "conditions",
                 "{}", "--output.sample-every", "0", "--out", str(model)]) == 0  # fmt: skip
    of = ["--method", "similarity", "--encoder", str(out), "--text", "a red bird"]
    assert main(["guide", str(model), *of, "-n", "2", "--steps", "2", "--out", str(drawn)]) == 0
    encoder = langevin.load(out)
    assert encoder.reads == "sequence"
    features = TextFeatures(str(words))(["a red bird"]).float()
    guided = similarity(langevin.load(model), encoder, text=features)
    known = langevin.sample(guided, n=2, steps=2).clamp(-1, 1)
    from numpy import load

    torch.testing.assert_close(torch.from_numpy(load(drawn / "samples.npz")["x"]), known, rtol=0, atol=2e-6)
    with pytest.raises(langevin.UserError, match="reads features of captions"):
        encoder.encode_text("a red bird")
