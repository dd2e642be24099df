"""The read cases of the public conformance suite of Durable Streams (npm), each of which passes or is listed here with its reason."""

import asyncio
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import uvicorn

from chappe.messages.envelope import Envelope, Publication
from chappe.web import live

from ...npm import installed
from ...waiting import auntil
from ..test_live import Door, opened
from .streams import Streams

pytestmark = pytest.mark.proof

SUITE: Final = Path(__file__).parent / "suite"
MODULES: Final = Path("~/.cache/chappe/durable-streams-0.3.6").expanduser()
GROUPS: Final = (
    "Read Operations", "Long-Poll Operations", "HTTP Protocol", "Browser Security Headers", "Case-Insensitivity", "Content-Type Validation",
    "HEAD Metadata", "Offset Validation and Resumability", "Protocol Edge Cases", "Long-Poll Edge Cases", "Caching and ETag",
    "Chunking and Large Payloads", "Read-Your-Writes Consistency", "SSE Mode", "JSON Mode", "Property-Based Tests",
)  # fmt: skip
WRITES: Final = "asks something of PUT, POST or DELETE, which the archive does not have: events are published"
NOT_JSON: Final = "asks for the encoding of a stream that is not JSON; the archive is a JSON stream"
BEGINS: Final = "a live request without a position begins now, which browsers need; the protocol wants a position"
NOT_APPLICABLE: Final = {
    "should return correct headers on PUT": WRITES,
    "should return 409 on PUT with different config": WRITES,
    "should return 409 on content-type mismatch": WRITES,
    "should enforce sequence ordering": WRITES,
    'should enforce lexicographic seq ordering ("2" then "10" rejects)': WRITES,
    "should reject duplicate seq values": WRITES,
    "should include X-Content-Type-Options: nosniff on PUT responses": WRITES,
    "should include X-Content-Type-Options: nosniff on POST responses": WRITES,
    "should include security headers on error responses": "asks for a stream that is not there; a pattern without events is an empty one",
    "should enforce content-type match on append": WRITES,
    "should reject empty POST body with 400": WRITES,
    "should enforce case-sensitive seq ordering": WRITES,
    "should reject missing Content-Type on POST": WRITES,
    "should require offset parameter for long-poll": BEGINS,
    "should return TTL metadata if configured": WRITES,
    "should allow If-None-Match in CORS preflight responses": "the gateway answers no preflight: it serves the pages that speak to it",
    "should require offset parameter for SSE mode": BEGINS,
    "base64 SSE catch-up pairs every data event with a control event": NOT_JSON,
    "should auto-detect binary streams and return base64 encoded data in SSE mode": NOT_JSON,
    "should include Stream-SSE-Data-Encoding header for binary streams": NOT_JSON,
    "should handle large binary payload with auto-detected base64 encoding": NOT_JSON,
    "should handle binary data with special bytes using auto-detected base64 encoding": NOT_JSON,
    "should auto-detect base64 encoding for application/x-protobuf streams": NOT_JSON,
    "should auto-detect base64 encoding for image/png streams": NOT_JSON,
    "should reject POST with empty array body": WRITES,
    "should reject invalid JSON with 400": WRITES,
    "should reject empty JSON arrays with 400": WRITES,
    "out-of-order seq values are rejected": WRITES,
}


async def _run(door: Door, folder: Path) -> list[dict[str, Any]]:
    """Run the suite over a gateway, and return what it says of each case of the groups."""

    async def publish(key: str, bodies: list[Any]) -> None:
        connection = await door.app.connection()
        told = [Envelope(uuid.uuid4().hex, "stream.part", json.dumps(body).encode()) for body in bodies]
        await connection.broker.publish([Publication(envelope, key, "events") for envelope in told])

    async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=httpx2.Limits(max_connections=None)) as http:
        application = Streams(f"http://127.0.0.1:{door.port}", publish, http).application
        server = uvicorn.Server(uvicorn.Config(application, port=0, log_config=None, lifespan="off", timeout_keep_alive=600))
        serving = asyncio.ensure_future(server.serve())
        await auntil(lambda: server.started, "the streams to be served")
        port = server.servers[0].sockets[0].getsockname()[1]
        shutil.copy(SUITE / "read.test.mjs", MODULES)
        process = await asyncio.create_subprocess_exec(
            "node", "node_modules/vitest/vitest.mjs", "run", "--reporter=json", f"--outputFile={folder}/told.json", "--testTimeout=60000",
            "-t", f"^({'|'.join(GROUPS)}) ", cwd=MODULES, env={**os.environ, "CONFORMANCE_TEST_URL": f"http://127.0.0.1:{port}"},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(600):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            server.should_exit = server.force_exit = True
            await serving
    (file,) = json.loads((folder / "told.json").read_text())["testResults"]
    return [case for case in file["assertionResults"] if case["status"] in ("passed", "failed")]


async def test_m4_the_archive_over_http_is_the_read_half_of_durable_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := installed(SUITE, MODULES):
        pytest.skip(reason)
    monkeypatch.setattr(live, "_LONGEST_POLL", 3.0)
    async with opened(tmp_path) as door:
        cases = await _run(door, tmp_path)
    failed = {case["title"]: case["failureMessages"][0][:500] for case in cases if case["status"] == "failed"}
    assert {title: why for title, why in failed.items() if title not in NOT_APPLICABLE} == {}
    assert set(failed) == set(NOT_APPLICABLE), "what passes is to be listed as what passes"
    assert len(cases) - len(failed) == 123
