"""What a pickle would call, found without unpickling it."""

from __future__ import annotations

import contextlib
import io
import os
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator

from .._errors import UserError
from .untrusted import contents, reading

PLAIN = re.compile(
    r"collections\.OrderedDict|torch\.(Size|device|(storage\.)?\w+Storage|(u?int|float|bfloat|complex)\d+|bool)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
)
"""Names that tensors and containers of them need. All else in a pickle is code that unpickling would run."""

MAGIC = 0x1950A86A20F9469CFC6C
"""The number with which files of torch before 1.6 begin: five pickles, then the tensors."""

_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")


def called(path: str | os.PathLike[str]) -> list[str]:
    """The names of all functions and classes that a file of pickles names, by the alphabet; nothing is run.

    Args:
        path: a file of ``torch.save``, or a plain pickle.

    Raises:
        UserError: if it is no such file, is TorchScript or a tar archive, or hides what it names.
    """
    with reading(path):
        content = contents(path)
        return sorted({name for part in _parts(content) for name in _names(part, len(content))})


def foreign(path: str | os.PathLike[str]) -> list[str]:
    """Those of ``called`` that are code: what tensors and containers of them do without."""
    return [name for name in called(path) if not PLAIN.fullmatch(name)]


def _parts(content: bytes) -> Iterator[io.BytesIO]:
    """The pickles of a file."""
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as held:
            infos = held.infolist()
            names = [info.filename.casefold() for info in infos]
            if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
                raise UserError("it is TorchScript, which is a program; save its state_dict() instead")
            if len(set(names)) < len(names) or any(info.compress_type or info.flag_bits & 1 for info in infos):
                raise UserError("its archive holds a name twice, or is compressed: torch writes no such file")
            found = [info for info in infos if info.filename.casefold().endswith(".pkl")]
            if len(found) != 1 or not found[0].filename.endswith("/data.pkl"):
                raise UserError("its archive must hold one data.pkl, as torch.save writes it")
            yield io.BytesIO(held.read(found[0]))
        return
    # Plain archives alone: a packed one would be unpacked to be looked at.
    with contextlib.suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(content), mode="r:"):
        raise UserError("it is a tar archive; files of torch before 1.0 are not read")
    stream = io.BytesIO(content)
    for k in range(5):
        start = stream.tell()
        first = [arg for op, arg, _ in pickletools.genops(stream) if op.name in ("LONG1", "LONG4", "LONG")]
        yield io.BytesIO(content[start : stream.tell()])
        if k == 0 and first != [MAGIC]:
            return


def _names(stream: io.BytesIO, size: int) -> Iterator[str]:
    """The names of one pickle; a tensor that claims more numbers than its file has bytes is refused."""
    memo: dict[int, str | int | None] = {}
    before: list[str | int | None] = [None, None]  # what the last two operations put on the stack: text, a number
    largest = 0  # of the numbers since the last mark
    for op, arg, _ in pickletools.genops(stream):
        if op.name in _MEMO:
            memo[len(memo) if arg is None else int(arg)] = before[-1]
            continue
        text: str | int | None = None
        if op.name in _TEXTS:
            text = str(arg)
        elif op.name in ("GET", "BINGET", "LONG_BINGET") and arg is not None:
            text = memo.get(int(arg))
        elif (isinstance(arg, int) and "INT" in op.name) or "LONG" in op.name:
            text = arg
        elif op.name == "MARK":
            largest = 0
        elif op.name == "BINPERSID" and largest > size:
            raise UserError(f"it claims a tensor of {largest} numbers, and has {size} bytes")
        elif op.name in ("GLOBAL", "INST"):
            yield str(arg).replace(" ", ".", 1)
        elif op.name == "STACK_GLOBAL":
            if not all(isinstance(one, str) for one in before):
                raise UserError("it names a function in a way that no pickler writes")
            yield f"{before[0]}.{before[1]}"
        elif op.name.startswith("EXT"):
            raise UserError("it names a function by a number of the extension registry")
        largest = max(largest, text) if isinstance(text, int) else largest
        before = [before[1], text]
