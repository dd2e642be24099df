"""The middleware of an application that names none, and why they are in this order."""

from __future__ import annotations

from chappe.bus.bus import Middleware
from chappe.middleware.limits import Expiry, TimeLimits
from chappe.middleware.queueing import Queueing
from chappe.middleware.rates import Rates
from chappe.middleware.retries import Retries


def defaults() -> list[Middleware]:
    """Return the default middleware, outermost first.

    Retries is outside everything, so that what has no attempt left is not begun. Expiry comes before Rates, so
    that a stale message takes no one's turn; Rates before TimeLimits, so that waiting is not working.
    """
    return [Retries(), Expiry(), Rates(), TimeLimits(), Queueing()]
