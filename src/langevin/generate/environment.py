"""Where something was run: versions and machine, as plain JSON."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "safetensors", "huggingface_hub", "accelerate", "tyro")

OF_OTHERS = ("diffusers", "transformers")
"""Packages whose networks and text encoders a model may have; they are named where they are installed."""


def versions() -> dict[str, str]:
    """Versions of langevin, Python and what the figures depend on; ``-`` for a package that is not installed.

    Of diffusers and transformers, which only models of theirs need, nothing is said where they are not installed.
    """
    return dict(_versions())


@cache  # every shard says them
def _versions() -> dict[str, str]:
    from .._version import __version__

    found = {"langevin": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "-"
    for package in OF_OTHERS:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, threads and device of torch, operating system."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    """The name of the processor; Linux keeps it in a file of its own."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = next((line for line in file if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()
