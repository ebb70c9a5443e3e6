"""Settings of the league that are finished, kept as they come: the same call goes on where one was stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..._errors import UserError
from ...storage import files
from .problems import Setting


@dataclass(frozen=True)
class FinishedSettings:
    """A folder with a file for each finished setting of each request.

    A file is written whole or not at all, and its name ends in the checksum of its request, so that settings of other
    requests lie beside it and are never taken for its own.

    Args:
        folder: made if it does not exist.
        request: what the figures depend on beside the setting, as plain JSON.
    """

    folder: Path
    request: Mapping[str, Any]

    def asked(self, setting: Setting) -> dict[str, Any]:
        """The request of one setting."""
        return {**self.request, "setting": asdict(setting)}

    def path(self, setting: Setting) -> Path:
        """The file of a setting."""
        checksum = hashlib.sha256(files.as_json(self.asked(setting))).hexdigest()
        return self.folder / f"{setting.dim}-{setting.operator}-{setting.std:g}-{checksum[:16]}.json"

    def read(self, setting: Setting) -> list[dict[str, Any]] | None:
        """The rows of a setting that is finished; None if it is not, or if its file is damaged."""
        try:
            held = files.read_json(self.path(setting))
        except UserError:
            return None
        rows = held.get("rows")
        return rows if held.get("request") == self.asked(setting) and isinstance(rows, list) else None

    def write(self, setting: Setting, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of a setting."""
        files.replace(self.path(setting), files.as_json({"request": self.asked(setting), "rows": list(rows)}))
