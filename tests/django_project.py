"""One Django project in the process of the tests: `examples/triggers` with tasks of our own, on a database of its own."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

EXAMPLES = str(Path(__file__).resolve().parents[1] / "examples")
TASKS = {
    "default": {"BACKEND": "chappe.integrations.django.backend.ChappeBackend", "QUEUES": ["default", "queue-1"]},
    "again": {"BACKEND": "chappe.integrations.django.backend.ChappeBackend", "OPTIONS": {"attempts": 3}, "QUEUES": []},
}


def set_up() -> None:
    """Set Django up once for this process, and make the tables."""
    from django.conf import settings

    if settings.configured:
        return
    if EXAMPLES not in sys.path:
        sys.path.insert(0, EXAMPLES)
    import django
    from django.core.management import call_command

    from triggers import settings as project

    folder = Path(tempfile.mkdtemp(prefix="chappe-django-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    given = {name: getattr(project, name) for name in dir(project) if name.isupper()}
    given["DATABASES"]["default"]["NAME"] = folder / "triggers.db"
    given["CHAPPE"]["BROKER"] = f"sqlite:///{folder}/chappe.db"
    given["LOGGING"] = {"version": 1, "disable_existing_loggers": False}
    given["PASSWORD_HASHERS"] = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.configure(**given, TASKS=TASKS)
    django.setup()
    call_command("migrate", verbosity=0)


def empty() -> None:
    """Delete all rows."""
    from django.core.management import call_command
    from django.db import connections

    call_command("flush", verbosity=0, interactive=False)
    connections.close_all()
