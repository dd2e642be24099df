"""What is kept of a run: one line of JSON in `evidence/`, and what the program that ran it says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

EVIDENCE: Final = Path(__file__).parents[2] / "evidence"


class Verdict(Protocol):
    """What a run found."""

    @property
    def is_good(self) -> bool: ...


def keep_evidence(name: str, evidence: Mapping[str, Any]) -> None:
    """Keep the evidence of a run; the name says which, and is given the time."""
    EVIDENCE.mkdir(exist_ok=True)
    (EVIDENCE / f"{name}-{int(time.time())}.json").write_text(json.dumps(evidence) + "\n")


def tell(verdict: Verdict, evidence: Mapping[str, Any]) -> int:
    """Print what was found, and give the exit code."""
    print(json.dumps(evidence))
    print(verdict, file=sys.stderr)
    return 0 if verdict.is_good else 1
