"""Data sets by name, from folders, array files and the Hub, with the description that travels with a model."""

from . import avatars as _avatars  # noqa: F401  (fills the registry)
from . import brain as _brain  # noqa: F401
from . import digits as _digits  # noqa: F401
from . import ellipses as _ellipses  # noqa: F401
from . import emoji as _emoji  # noqa: F401
from . import formulas as _formulas  # noqa: F401
from . import glyphs as _glyphs  # noqa: F401
from . import heartbeat as _heartbeat  # noqa: F401
from . import mnist as _mnist  # noqa: F401
from . import toys as _toys  # noqa: F401
from . import words as _words  # noqa: F401
from ._numpy import samples
from .dataset import Dataset
from .degradations import Degradation
from .description import DataInfo
from .loading import load
from .split import Split

__all__ = ["DataInfo", "Dataset", "Degradation", "Split", "load", "samples"]
