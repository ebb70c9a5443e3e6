"""What people do with a model."""

from __future__ import annotations

from . import compress

__all__ = ["compress"]
