"""A local web page to play with exact worlds and trained models."""

from .app import create_app
from .server import serve

__all__ = ["create_app", "serve"]
