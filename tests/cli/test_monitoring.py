"""`chappe export prometheus-rules` and `grafana` name metrics that there are, in forms that both take."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chappe.beats import BOUNDS
from chappe.cli.monitoring import DEFAULTS, dashboard_of, rules_of
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, Overview, QueueStatus
from chappe.settings import Alert
from chappe.web.metrics import Metrics

from .conftest import Chappe

EVERYTHING = {
    "old": Alert(queue="import.*", age=60.0), "deep": Alert(depth=100), "dead-letters": Alert(queue='odd"\\name', dead=0),
    "still": Alert(stalled=30.0), "crashing": Alert(crash_loop=True, hold=0.0),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("alerts", [EVERYTHING, DEFAULTS, {"all": Alert(age=1.0, depth=1, dead=1, stalled=1.0, crash_loop=True)}])
def test_promtool_takes_the_rules(tmp_path: Path, alerts: dict[str, Alert]) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(rules_of("shop", alerts))
    checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS" in checked.stdout


def names_of(text: str) -> set[str]:
    return set(re.findall(r"chappe_[a-z_]+(?=[{\[)> ]|$)", text, re.MULTILINE))


def exposed() -> str:
    process = {"state": "ready", "memory": 1, "name": "w", "pid": 1}
    pool = {"wanted": 1, "busy": 0, "load": None, "processes": [process]}
    counts = [1] * (len(BOUNDS) + 1)
    supervisor = ClientStatus("s", "supervisor", 0, {"host": "a", "pools": {"p": pool}, "times": [("q", (counts, 1.0), (counts, 1.0))]})
    queue = QueueStatus("q", (), "", 0, 0, 0, 0, 0, oldest=1.0, published=1, done=1, retried=1, died=1)
    metrics = Metrics()
    metrics.requests.labels("api", "200").inc()
    metrics.seconds.labels("api").observe(0.1)
    return metrics.expose(Overview(EngineStatus("x"), [queue], [], [supervisor]))[0].decode()


def test_rules_and_panels_ask_for_metrics_that_there_are() -> None:
    there = set(re.findall(r"^(chappe_\w+)", exposed(), re.MULTILINE))
    dashboard = dashboard_of("shop")
    asked = names_of("\n".join(panel["targets"][0]["expr"] for panel in dashboard["panels"])) | names_of(rules_of("shop", EVERYTHING))
    assert len(asked) > 8
    assert asked <= there


def test_what_is_printed_can_be_read(chappe: Chappe, tmp_path: Path) -> None:
    found: Any = json.loads(chappe("export", "grafana").out)
    assert found["title"] == "Chappe: shop"
    assert [panel["id"] for panel in found["panels"]] == list(range(1, len(found["panels"]) + 1))
    (tmp_path / "chappe.toml").write_text('app = "shop:app"\n[alerts.old]\nqueue = "orders"\nage = 5\n')
    rules = chappe("export", "prometheus-rules").out
    assert 'expr: "chappe_queue_oldest_seconds{queue=~\\"orders\\"} > 5"' in rules
    assert rules.count("- alert:") == 1
