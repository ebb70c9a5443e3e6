"""What people do with a model."""

from __future__ import annotations

from . import compress, restore

__all__ = ["compress", "restore"]
