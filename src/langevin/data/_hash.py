"""Counter-based hashes: the same decision for the same words, whatever was decided before."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def mix(*words: Any) -> np.ndarray:
    """64 well-mixed bits of integer words that broadcast against each other (the SplitMix64 finaliser, chained)."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        # Python integers of any size and sign are taken modulo 2^64.
        bits = np.uint64(word % 2**64) if isinstance(word, int) else np.asarray(word).astype(np.uint64)
        state = (state + _GOLDEN) ^ bits
        state = (state ^ (state >> np.uint64(30))) * _MIX1
        state = (state ^ (state >> np.uint64(27))) * _MIX2
        state = state ^ (state >> np.uint64(31))
    return state


def uniform(*words: Any) -> np.ndarray:
    """A float64 in [0, 1) for each row of words."""
    return (mix(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def text(key: str) -> int:
    """64 bits of a string; the two Unicode spellings of an accent (macOS, Linux) give the same."""
    data = unicodedata.normalize("NFC", key).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
