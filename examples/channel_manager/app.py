"""The channel manager: `chappe -A channel_manager.app run`."""

from channel_manager import compute, push
from channel_manager.application import app

__all__ = ["app", "compute", "push"]
