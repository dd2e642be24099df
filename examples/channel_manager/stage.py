"""Everything the channel manager needs around it, as real processes: the channels, and `chappe run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from channel_manager.bookings import open_properties
from channel_manager.property import PropertyDatabase
from processes import Installation


class Stage(Installation):
    """A folder with a property database, the three channels, and Chappe over them."""

    last = ("engine", "channels")
    patience = timeout = 30.0

    def __init__(self, folder: Path, *, properties: int = 40, urls: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, Path(__file__).resolve().with_name("chappe.toml"), urls)
        self.properties = PropertyDatabase(folder / "property.db")
        open_properties(self.properties, properties)
        self.channels_url = ""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PROPERTY_DATABASE": str(self.properties.path), "CHANNELS_URL": self.channels_url}

    def start_channels(self) -> None:
        """Start the three channels in a process of their own."""
        self.channels_url = self.start_server("channels", "-m", "channel_manager.channel_server")

    def chappe(self, *arguments: str, name: str) -> None:
        """Start a `chappe` command; what it logs goes to a file of its name."""
        self.start(name, "-m", "chappe", *arguments)

    def start_doors(self) -> None:
        """Start the engine and the gateway only: commands are taken, nobody works."""
        self.chappe("engine", name="engine")
        self.chappe("gateway", name="gateway")
        self.wait_for(lambda: self.answers(f"{self.gateway_url}/readyz"), "the gateway to be ready")

    def start_worker(self, name: str, queues: str, *options: str) -> None:
        """Start one worker process for some queues and wait until it serves them."""
        before = sum(queue["consumers"] for queue in self.queues().values())
        self.chappe("worker", "-n", name, "-Q", queues, *options, name=name)
        self.wait_for(lambda: sum(q["consumers"] for q in self.queues().values()) > before, f"{name} to serve {queues}")

    # --- what the back office and an operator do

    def post_mask(self, property_id: int, *what: str) -> httpx2.Response:
        """Post a mask as the back office does."""
        answer = self.http.post(f"{self.gateway_url}/commands/sync.property", json={"property_id": property_id, "what": list(what)})
        answer.raise_for_status()
        return answer

    def manner(self, channel: str, manner: str, **more: float) -> None:
        """Tell a channel how to behave."""
        self.http.post(f"{self.channels_url}/control/{channel}", json={"manner": manner, **more}).raise_for_status()

    def stats(self) -> Mapping[str, Any]:
        """Return what the channels counted."""
        return self.http.get(f"{self.channels_url}/stats").json()

    def state(self) -> Mapping[str, Any]:
        """Return the calendars that the channels show."""
        return self.http.get(f"{self.channels_url}/state").json()

    def idle(self) -> bool:
        """Tell whether nothing waits or runs, and every push was confirmed."""
        busy = any(q["ready"] or q["running"] or q["delayed"] for q in self.queues().values())
        return not busy and self.stats()["confirmations"]["pending"] == 0

    def close(self) -> None:
        super().close()
        self.properties.close()
