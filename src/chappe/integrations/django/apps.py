"""The application of a project, found through its settings when Django starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from chappe.app import App
from chappe.integrations.django.connections import Connections
from chappe.settings import load


class ChappeConfig(AppConfig):
    """Finds the application that `CHAPPE["APP"]` names, or makes one of the project's name, and gives it the settings of the project."""

    name = "chappe.integrations.django"
    label = "chappe"
    verbose_name = "Chappe"
    default_auto_field = "django.db.models.BigAutoField"
    application: App

    def ready(self) -> None:
        """Find the application, and have connections to databases closed around its handlers."""
        named = given().get("APP")
        project = str(settings.ROOT_URLCONF if hasattr(settings, "ROOT_URLCONF") else "django").partition(".")[0]
        found = App(project) if named is None else import_string(str(named).replace(":", "."))
        if not isinstance(found, App):
            raise ImproperlyConfigured(f'CHAPPE["APP"]: {named} is not an application; write it like "shop.tasks:app"')
        self.application = found
        found.configure(load({name: value for name, value in environment().items() if name not in _set()}))
        found.use(Connections())


def application() -> App:
    """Return the application of this project."""
    return cast("ChappeConfig", apps.get_app_config("chappe")).application


def given() -> Mapping[str, Any]:
    """Return the setting CHAPPE; raises `ImproperlyConfigured` if it is no dict with names in upper case."""
    found: Any = getattr(settings, "CHAPPE", {})
    if not isinstance(found, Mapping) or not all(isinstance(name, str) and name.isupper() for name in cast("Mapping[Any, Any]", found)):
        raise ImproperlyConfigured('CHAPPE must be a dict like {"APP": "shop.tasks:app", "BROKER": "sqlite:////var/lib/shop/chappe.db"}')
    return cast("Mapping[str, Any]", found)


def environment() -> dict[str, str]:
    """Return what the project sets of Chappe, but the application, by the names of chappe.toml."""
    return {name.lower(): str(value) for name, value in given().items() if name != "APP"}


def _set() -> set[str]:
    return {name for name in environment() if os.environ.get(f"CHAPPE_{name.upper()}")}
