"""What people do with a model."""

from __future__ import annotations

from . import compress, edit, restore

__all__ = ["compress", "edit", "restore"]
