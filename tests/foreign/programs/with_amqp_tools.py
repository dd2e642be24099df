"""Does what is told on stdin by Debian's amqp-declare-queue, amqp-publish and amqp-consume, and prints what that consumes.

These declare no exchanges, know no arguments, publish no properties but a content type and headers, and show bodies only.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from typing import Any


def run(program: str, *options: str, told: str = "") -> None:
    subprocess.run([program, "--url", URL, *options], input=told, text=True, stdout=subprocess.DEVNULL, check=True)


def written(letter: dict[str, Any]) -> str:
    at = dt.datetime.fromtimestamp(letter["at"] / 1000, dt.UTC)
    fields = {**letter, "at": f"{at:%Y-%m-%d %H:%M:%S}.{letter['at'] % 1000:03}Z", "day": "{:04}-{:02}-{:02}".format(*letter["day"])}
    return json.dumps(fields, ensure_ascii=False)


def read(body: str) -> dict[str, Any]:
    letter = json.loads(body)
    at = dt.datetime.fromisoformat(letter["at"])
    return {**letter, "at": round(at.timestamp() * 1000), "day": list(dt.date.fromisoformat(letter["day"]).timetuple()[:3])}


TOLD = json.load(sys.stdin)
URL = TOLD["url"] + "%2F" * TOLD["url"].endswith("/")  # these take no path for an empty name
assert not TOLD["exchanges"], "amqp-tools declare no exchanges"
bindings: list[str] = []
for queue in TOLD["queues"]:
    assert not queue["arguments"], "the tools know none"
    if queue["bindings"]:  # amqp-consume declares it
        assert queue["auto_delete"] and not queue["durable"] and len(queue["bindings"]) == 1, "that is how it does that"
        bindings = [part for exchange, key in queue["bindings"] for part in ("--exchange", exchange, "--routing-key", key)]
    else:
        run("amqp-declare-queue", "--queue", queue["name"], *(["--durable"] if queue["durable"] else []))
for message in TOLD["publish"]:
    headers = [part for name, value in message["properties"].get("headers", {}).items() for part in ("--header", f"{name}: {value}")]
    where = ("--exchange", message["exchange"], "--routing-key", message["key"])
    body = message["body"] if "body" in message else written(message["letter"])
    run("amqp-publish", *where, "--content-type", "application/json", *headers, told=body)
if TOLD["consume"] is not None:
    command = ("amqp-consume", "--url", URL, "--queue", TOLD["consume"]["queue"], *bindings, "--count", str(TOLD["consume"]["count"]))
    with subprocess.Popen([*command, "--", "sh", "-c", "cat; echo"], stdout=subprocess.PIPE, text=True) as consuming:
        assert consuming.stdout is not None
        for line in consuming.stdout:
            print(json.dumps({"letter": read(line), "body": line.rstrip("\n")}), flush=True)
    assert consuming.returncode == 0, consuming.returncode
