"""The synthetic bench: rendered laboratory procedures with known step times."""

from .make import make_benchlab

__all__ = ["make_benchlab"]
