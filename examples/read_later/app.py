"""Read later: `chappe -A read_later.app run`."""

from read_later import handlers
from read_later.application import app

__all__ = ["app", "handlers"]
