"""The application of the Django project that DJANGO_SETTINGS_MODULE names: `chappe -A chappe.integrations.django.project …`."""

from __future__ import annotations

import django

django.setup()

from chappe.integrations.django.application import application  # noqa: E402 - after the project is set up

app = application()
