"""Chappe in a Django project: add `chappe.integrations.django` to INSTALLED_APPS, and name the application in CHAPPE."""

from __future__ import annotations

from chappe.integrations.django.sending import send_on_commit

__all__ = ["send_on_commit"]
