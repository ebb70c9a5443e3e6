"""The version, which the package's metadata read too."""

__version__ = "0.1.0"
