"""A URL says where a broker is; what is wrong in it is named, and no text shows the password."""

from __future__ import annotations

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.errors import InvalidSettings


def test_a_url_without_anything_means_what_rabbitmq_has_when_it_was_just_installed() -> None:
    address = Address.parse("amqp://localhost")
    assert (address.hosts, address.user, address.password, address.vhost) == ((("localhost", 5672),), "guest", "guest", "/")
    assert (address.heartbeat, address.tls, address.context()) == (10, False, None)


def test_everything_that_a_url_can_say_is_read() -> None:
    address = Address.parse("amqp://me:a%40b%2Fc@one.example:1,[::1]:2,three/my%2Fhost?heartbeat=3")
    assert address.hosts == (("one.example", 1), ("::1", 2), ("three", 5672))
    assert (address.user, address.password, address.vhost, address.heartbeat) == ("me", "a@b/c", "my/host", 3)


def test_tls_has_its_own_port_and_verifies_unless_told_otherwise() -> None:
    address = Address.parse("amqps://host/")
    context = address.context()
    assert context is not None
    assert (address.hosts, context.check_hostname) == ((("host", 5671),), True)
    careless = Address.parse("amqps://host/?verify=verify_none").context()
    assert careless is not None
    assert not careless.check_hostname


def test_no_text_of_an_address_shows_the_password() -> None:
    address = Address.parse("amqp://me:secret@host,other:1/shop")
    assert str(address) == "amqp://me@host:5672,other:1/shop"
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host", "amqp://user:password@host"),
        ("amqp://me:pass#word@host", "% and a number"),
        ("amqp://", "no host"),
        ("amqp://a,,b", "no host"),
        ("amqp://host:port", "no host"),
        ("amqp://host:0", "no host"),
        ("amqp://host:65536", "no host"),
        ("amqp://host/a/b", "%2F"),
        ("amqp://host?heartbeet=3", 'did you mean "heartbeat"'),
        ("amqp://host?heartbeat", "cannot be read"),
        ("amqp://host?heartbeat=-1", "whole seconds"),
        ("amqp://host?heartbeat=1.5", "whole seconds"),
        ("amqp://host?cacertfile=/x", "only amqps"),
        ("amqps://host?verify=no", "verify_peer or verify_none"),
    ],
)
def test_what_is_wrong_in_a_url_is_said(url: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Address.parse(url)
    assert said in str(caught.value)
    assert "pass#word" not in str(caught.value)
