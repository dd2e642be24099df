"""The auction house: `chappe -A auctions.app run`."""

from auctions import bidding
from auctions.application import app

__all__ = ["app", "bidding"]
