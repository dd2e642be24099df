"""A project with an empty database, and its application without processes."""

from collections.abc import Iterator

import pytest

from chappe.testing import Trial, testing

from ...django_project import empty, set_up

pytest.importorskip("django", reason="Django is not installed")
set_up()


@pytest.fixture
def t() -> Iterator[Trial]:
    from django.db import connections

    from chappe.integrations.django.application import application

    empty()
    with testing(application()) as trial:
        yield trial
    connections.close_all()
