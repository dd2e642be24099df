"""The Django project: its database, its admin, its log, and where its triggers are handled."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("TRIGGERS_FOLDER", ".")).resolve()

SECRET_KEY = os.environ.get("TRIGGERS_SECRET", "only for this demo, which listens on 127.0.0.1")
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "triggers.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "chappe.integrations.django",
    "triggers",
]
CHAPPE = {"APP": "triggers.tasks:app", "BROKER": f"sqlite:///{FOLDER}/chappe.db"}

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "triggers.db",
        "CONN_MAX_AGE": 60,
        # Several processes write: whoever comes second waits for the first.
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"},
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(module)s %(process)d %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": FOLDER / "triggers.log", "formatter": "line", "delay": True}},
    "loggers": {"triggers": {"handlers": ["file"], "level": "INFO"}},
}
