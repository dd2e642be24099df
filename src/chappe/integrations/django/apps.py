"""The application of a project, found through its settings when Django starts."""

from __future__ import annotations

import os

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from chappe.app import App
from chappe.integrations.django.application import environment, given
from chappe.integrations.django.connections import Connections
from chappe.integrations.django.sending import RelayOutbox, relay_outbox
from chappe.settings import load
from chappe.triggers.schedule import every


class ChappeConfig(AppConfig):
    """Finds the application that `CHAPPE["APP"]` names, or makes one of the project's name, and gives it the settings of the project."""

    name = "chappe.integrations.django"
    label = "chappe"
    verbose_name = "Chappe"
    default_auto_field = "django.db.models.BigAutoField"
    application: App

    def ready(self) -> None:
        """Find the application; its handlers, and those of the outbox and of `django.tasks`, have connections to databases closed."""
        self.application = found = _found()
        found.configure(load({name: value for name, value in environment().items() if not os.environ.get(f"CHAPPE_{name.upper()}")}))
        found.use(Connections())
        found.handles(RelayOutbox)(relay_outbox)
        found.schedule(every(60), RelayOutbox())
        if any(str(one.get("BACKEND", "")).startswith("chappe.") for one in getattr(settings, "TASKS", {}).values()):
            from chappe.integrations.django.backend import register

            register(found)


def _found() -> App:
    named = given().get("APP")
    if named is None:
        return App(str(getattr(settings, "ROOT_URLCONF", "django")).partition(".")[0])
    found = import_string(str(named).replace(":", "."))
    if not isinstance(found, App):
        raise ImproperlyConfigured(f'CHAPPE["APP"]: {named} is not an application; write it like "shop.tasks:app"')
    return found
