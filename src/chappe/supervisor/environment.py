"""What a supervised process is told of its supervisor's environment."""

from __future__ import annotations

from collections.abc import Mapping

from chappe.settings import TOKEN_VARIABLE


def environment_for(role: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process by its role: the token is for the gateway, and no handler's process has it."""
    return {name: value for name, value in environ.items() if role == "gateway" or name != TOKEN_VARIABLE}
