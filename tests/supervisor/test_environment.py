"""What each process is told of the environment."""

import pytest

from chappe.supervisor.environment import environment_for

SAID = {"PATH": "/bin", "CHAPPE_APP": "shop:app", "CHAPPE_TOKEN": "canary-token-0123456789", "DATABASE_URL": "postgresql://a:b@c/d"}


@pytest.mark.parametrize("role", ["worker", "scheduler", "engine", "anything"])
def test_the_token_is_not_in_the_environment_of_a_process_that_has_no_use_for_it(role: str) -> None:
    assert environment_for(role, SAID) == {name: value for name, value in SAID.items() if name != "CHAPPE_TOKEN"}


def test_the_gateway_is_told_everything() -> None:
    assert environment_for("gateway", SAID) == SAID
