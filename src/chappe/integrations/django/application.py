"""The application of a project, and what the project sets of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from chappe.app import App


def application() -> App:
    """Return the application of this project."""
    config: Any = apps.get_app_config("chappe")
    return config.application


def given() -> Mapping[str, Any]:
    """Return the setting CHAPPE; raises `ImproperlyConfigured` if it is no dict with names in upper case."""
    found: Any = getattr(settings, "CHAPPE", {})
    if not isinstance(found, Mapping) or not all(isinstance(name, str) and name.isupper() for name in cast("Mapping[Any, Any]", found)):
        raise ImproperlyConfigured('CHAPPE must be a dict like {"APP": "shop.tasks:app", "BROKER": "sqlite:////var/lib/shop/chappe.db"}')
    return cast("Mapping[str, Any]", found)


def environment() -> dict[str, str]:
    """Return what the project sets of Chappe, but the application, by the names of chappe.toml."""
    return {name.lower(): str(value) for name, value in given().items() if name != "APP"}
