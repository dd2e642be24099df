"""What an integration needs is imported with it, and by nobody else."""

import subprocess
import sys

import pytest

OURS = "{'django', 'django_tasks', 'asgiref', 'feedparser', 'defusedxml', 'httpx2', 'opentelemetry', 'sentry_sdk'}"


@pytest.mark.parametrize("module", ["chappe", "chappe.cli.processes, chappe.cli.looking, chappe.web.gateway, chappe.testing"])
def test_who_does_not_use_django_or_feeds_does_not_import_them(module: str) -> None:
    script = f"import sys, {module}\nfound = {OURS} & set(sys.modules)\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
