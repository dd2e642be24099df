"""`python -m tests.faults.carry --messages 200000`: a move from a file to RabbitMQ, or `--back`, under traffic, on servers of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.faults.carry.run import carry
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode


def _tell(left: str) -> None:
    print(left, file=sys.stderr)


def main() -> int:
    """Move, and say with the exit code whether everything is there once."""
    parser = argparse.ArgumentParser(prog="make move", description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--back", action="store_true", help="from RabbitMQ to a file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chappe-carry-") as name:
        folder = Path(name)
        with RabbitNode(folder / "rabbitmq") as rabbit, PostgresNode(folder / "postgres") as postgres:
            account, _, figures = asyncio.run(
                carry(folder, {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}, asked.messages, _tell, back=asked.back)
            )
    print(json.dumps({**figures, "lost": len(account.lost), "doubled": len(account.doubled)}))
    return 1 if account.lost or account.doubled else 0


if __name__ == "__main__":
    sys.exit(main())
