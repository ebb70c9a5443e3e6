"""What people do with a model: restore, edit, compress, compare, audit, purify, find anomalies, draw guided samples."""

from __future__ import annotations

from . import compare, compress, edit, restore
from .anomaly import Anomaly, anomaly, auroc
from .attack import pgd
from .disco import disco
from .purify import purify

__all__ = ["Anomaly", "anomaly", "auroc", "compare", "compress", "disco", "edit", "pgd", "purify", "restore"]
