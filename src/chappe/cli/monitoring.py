"""What Prometheus and Grafana are told of an application: the alerts of its settings, and a dashboard over its metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from chappe.settings import Alert

_STATES: Final = "chappe_queue_messages{{queue=~{queue},state={state}}}"
_DASHBOARD: Final = Path(__file__).parent / "grafana.json"
DEFAULTS: Final = {"waiting": Alert(age=300.0), "dead": Alert(dead=0), "crashing": Alert(crash_loop=True)}


def rules_of(name: str, alerts: Mapping[str, Alert]) -> str:
    """Return a file of rules, in YAML."""
    lines = ["groups:", f"  - name: {json.dumps(f'chappe {name}')}", "    rules:"]
    for rule, alert in alerts.items():
        for what, expression, held, summary in _expressions(alert):
            called = "".join(part.capitalize() for part in re.split(r"\W|_", f"chappe_{rule}_{what}"))
            lines += [
                f"      - alert: {called}", f"        expr: {json.dumps(expression)}", f"        for: {max(1, round(held))}s",
                "        labels:", "          severity: warning", "        annotations:", f"          summary: {json.dumps(summary)}",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _expressions(alert: Alert) -> Iterator[tuple[str, str, float, str]]:
    """Yield what each condition of a rule is called, its expression, the seconds for which it must hold, and what it says."""
    queue = json.dumps(".*".join(re.escape(part).replace(r"\-", "-") for part in alert.queue.split("*")))

    def counted(state: str) -> str:
        return _STATES.format(queue=queue, state=json.dumps(state))

    if alert.age is not None:
        text = f"The oldest message of {{{{ $labels.queue }}}} waits for more than {alert.age:g} s"
        yield "age", f"chappe_queue_oldest_seconds{{queue=~{queue}}} > {alert.age:g}", alert.hold, text
    if alert.depth is not None:
        text = f"More than {alert.depth} messages of {{{{ $labels.queue }}}} are ready"
        yield "depth", f"{counted('ready')} > {alert.depth}", alert.hold, text
    if alert.dead is not None:
        yield "dead", f"{counted('dead')} > {alert.dead}", alert.hold, f"More than {alert.dead} dead letters of {{{{ $labels.queue }}}}"
    if alert.stalled is not None:
        waits, runs, paused = counted("ready"), counted("running"), f"chappe_queue_paused{{queue=~{queue}}}"
        expression = f"sum by (queue) ({waits}) > 0 and sum by (queue) ({runs}) == 0 and sum by (queue) ({paused}) == 0"
        yield "stalled", expression, max(alert.stalled, alert.hold), "Nothing of {{ $labels.queue }} runs, and messages wait"
    if alert.crash_loop:
        expression = 'chappe_pool_processes{state="FATAL"} > 0'
        yield "crash_loop", expression, alert.hold, "Processes of pool {{ $labels.pool }} on {{ $labels.host }} do not stay up"


def dashboard_of(name: str) -> dict[str, Any]:
    """Return a dashboard of Grafana."""
    return json.loads(_DASHBOARD.read_bytes()) | {"title": f"Chappe: {name}"}
