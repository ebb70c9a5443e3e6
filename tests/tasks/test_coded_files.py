"""Coded files byte by byte: what is altered, cut or forged is refused, and every process reads the same bits."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codec import network, replace_data, smooth

from langevin import models, processes
from langevin._errors import UserError
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.tasks.compress import compress, container, decompress
from langevin.tasks.compress.chain import fingerprint


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return network()


@pytest.fixture(scope="module")
def files(model: NetworkDenoiser) -> dict[str, bytes]:
    """A lossy and an exact file."""
    x = smooth(3, (1, 8, 8), 17)
    return {"lossy": compress(model, x, step=0.3).content, "exact": compress(model, x).content}


def sealed(content: bytes) -> bytes:
    """The content with a checksum that fits."""
    return content[:-8] + hashlib.blake2b(content[:-8], digest_size=8).digest()


def with_header(content: bytes, **changes: object) -> bytes:
    """The file with other header fields."""
    length = struct.unpack_from("<I", content, 6)[0]
    head = json.dumps({**json.loads(content[10 : 10 + length]), **changes}, separators=(",", ":")).encode()
    return sealed(content[:6] + struct.pack("<I", len(head)) + head + content[10 + length :])


@pytest.mark.parametrize("kind", ["lossy", "exact"])
def test_every_altered_byte_is_seen(files: dict[str, bytes], kind: str) -> None:
    content = files[kind]
    for i in range(len(content)):
        for flip in (0x01, 0x80):
            with pytest.raises(UserError):
                container.unpack(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])


@pytest.mark.parametrize("kind", ["lossy", "exact"])
def test_every_cut_is_seen(files: dict[str, bytes], kind: str) -> None:
    for i in range(len(files[kind])):
        with pytest.raises(UserError):
            container.unpack(files[kind][:i])
    with pytest.raises(UserError):
        container.unpack(files[kind] + b"\0")


def test_sealed_alterations_never_crash(model: NetworkDenoiser, files: dict[str, bytes]) -> None:
    """Bytes altered and the checksum made to fit: a file is read or refused, nothing else happens."""
    content = files["exact"]
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for i in rng.permutation(len(content) - 8)[:90]:
        for value in (int(rng.integers(256)), ord("9")):
            altered = sealed(content[:i] + bytes([value]) + content[i + 1 :])
            try:
                container.unpack(altered)
                decompress(model, altered)
                outcomes["read"] += 1
            except UserError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


HUGE = 10**12
FORGED = [
    {"count": HUGE},
    {"count": 2**32},
    {"count": 0},
    {"count": 3.0},
    {"count": True},
    {"shape": [HUGE]},
    {"shape": []},
    {"shape": [2**20] * 50},
    {"shape": [1, 8]},
    {"levels": 1},
    {"seed": -1},
    {"times": [0.5]},
    {"times": [0.1, 0.5]},
    {"times": ["a", 0.1]},
    {"times": [1, 0]},
    {"bits": []},
    {"bits": [HUGE] * 3},
    {"bits": [0]},
    {"spread": [300]},
    {"spread": None},
    {"scales": [1]},
    {"residual": HUGE},
    {"residual": -4},
    {"items": [["a", 1]]},
    {"items": [[1, 8, 8]]},
    {"items": [["a", 0, 8]]},
    {"model": 7},
    {"extra": 1},
]


@pytest.mark.parametrize("changes", FORGED, ids=lambda c: "-".join(f"{k}={str(v)[:12]}" for k, v in c.items()))
def test_forged_headers(model: NetworkDenoiser, files: dict[str, bytes], changes: dict[str, object]) -> None:
    """No number of a header is used before the file's own length has confirmed it."""
    with pytest.raises(UserError):
        decompress(model, with_header(files["exact"], **changes))


def test_refusals_say_what_is_wrong(model: NetworkDenoiser, files: dict[str, bytes]) -> None:
    content = files["lossy"]
    cases = {
        "no file of `langevin compress`": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "cut short": content[:30],
        "format 9": content[:5] + b"\x09" + content[6:],
        "checksum": content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
        "says 2 bytes of payload, it has": with_header(content, residual=1, bits=[1], spread=[]),
    }
    for phrase, bad in cases.items():
        with pytest.raises(UserError, match=phrase):
            decompress(model, bad)
    with pytest.raises(UserError, match=f"another model: fingerprint {fingerprint(model)}, this one has"):
        decompress(network(seed=1), content)


def test_fingerprint_is_of_what_is_computed_with(model: NetworkDenoiser) -> None:
    assert fingerprint(replace(model, config={"steps": 3})) == fingerprint(model)
    others = [
        network(seed=1),
        replace(model, process=processes.VP(0.1, 19.0)),
        replace(model, parameterization=AffineParameterization("v", 0.71)),
        replace(model, data=replace_data(model.data, levels=18)),
        replace(model, data=replace_data(model.data, mean=torch.ones(64).double(), cov=torch.ones(64).double())),
    ]
    assert len({fingerprint(m) for m in (model, *others)}) == 6


READ = """
import hashlib, sys
from langevin import models
from langevin.tasks.compress import decompress
model = models.load(sys.argv[1], device="cpu")
for name in sys.argv[2:]:
    received = decompress(model, open(name, "rb").read())
    for part in (received.x, received.decode("flow"), received.decode("ancestral")):
        print(hashlib.sha256(part.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_reads_the_same_bits(model: NetworkDenoiser, files: dict[str, bytes], tmp_path: Path) -> None:
    models.save(model, tmp_path / "model")
    names = []
    for kind, content in files.items():
        (tmp_path / kind).write_bytes(content)
        names.append(str(tmp_path / kind))
    words = [sys.executable, "-c", READ, str(tmp_path / "model"), *names]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    mine = []
    for content in files.values():
        received = decompress(model, content)
        for part in (received.x, received.decode("flow"), received.decode("ancestral")):
            mine.append(hashlib.sha256(part.numpy().tobytes()).hexdigest())
    assert told == mine
