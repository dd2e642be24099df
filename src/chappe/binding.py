"""Who could reach a gateway with these settings, and who is served: without the web framework, which the supervisor has no use for."""

from __future__ import annotations

import pwd
import re

from chappe.errors import InvalidSettings
from chappe.settings import Settings, is_loopback


def refuse_open_bind(settings: Settings) -> None:
    """Raise `InvalidSettings` for a bind that others can reach while no token is set, and for allowed users that nobody is."""
    users_of(settings)
    if not is_loopback(settings.host) and not settings.token and not settings.tokens and not settings.token_secret:
        raise InvalidSettings(
            f"host {settings.host} can be reached from other machines and no token is set; set CHAPPE_TOKEN, or bind to 127.0.0.1"
        )
    if settings.token is not None and not re.fullmatch(r"[\x21-\x7e]+", settings.token):
        raise InvalidSettings("the token has characters that no header can carry; use letters, digits and signs without spaces")
    if settings.token is not None and len(settings.token) < 16:
        raise InvalidSettings(
            "the token is shorter than 16 characters; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


def users_of(settings: Settings) -> frozenset[int]:
    """Return the ids of the users who are served without a token beside who runs this and root."""
    found: set[int] = set()
    for user in settings.allowed_users:
        try:
            found.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except (KeyError, OverflowError):
            raise InvalidSettings(f'allowed_users: no user of this machine is called "{user}"; see getent passwd') from None
    return frozenset(found)
