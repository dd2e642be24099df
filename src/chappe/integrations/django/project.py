"""The application of the Django project that DJANGO_SETTINGS_MODULE names, as `manage.py chappe …` has it loaded by `chappe`.

Who names it as `-A chappe.integrations.django.project` gives the broker in the environment or chappe.toml: CHAPPE is not asked for it.
"""

from __future__ import annotations

import django

django.setup()

from chappe.integrations.django.application import application  # noqa: E402 - after the project is set up

app = application()
