"""This project as a Django application."""

from django.apps import AppConfig


class TriggersConfig(AppConfig):
    """Its name."""

    name = "triggers"
