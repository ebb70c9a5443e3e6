"""``python -m langevin``, as ``accelerate launch -m langevin train …`` needs it."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
