"""The Django project of `django_application`: one table of tasks in an SQLite file, whose commits are synced as Chappe's are."""

from __future__ import annotations

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "django.db",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 60,
            "init_command": "pragma journal_mode=wal; pragma synchronous=full;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_tasks", "django_tasks_db"]
SECRET_KEY = "of a bench"
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend", "QUEUES": []}}
USE_TZ = True
