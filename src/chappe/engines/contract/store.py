"""Everything that is remembered beside the broker."""

from __future__ import annotations

from typing import Protocol

from chappe.engines.contract.archive import Archive
from chappe.engines.contract.fleet import Fleet
from chappe.engines.contract.inspection import Inspection
from chappe.engines.contract.letters import Letters
from chappe.engines.contract.results import Results


class Store(Results, Letters, Inspection, Archive, Fleet, Protocol):
    """Results, dead letters, messages that are looked at, the archive and the fleet, of one engine."""
