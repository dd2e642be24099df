"""No secret of a setting is shown, for any malformed URL."""

import json
import re
from urllib.parse import quote

import pytest

from chappe.binding import refuse_open_bind
from chappe.errors import InvalidSettings
from chappe.redaction import secrets_in, shown, without_secrets
from chappe.settings import Settings, load

PASSWORD = "S3cr-Et.pa55"
MALFORMED = [
    "amqp:/u:{}@h/",
    "amqp:u:{}@h/",
    "amqp//u:{}@h/",
    "amqp://u:{} @h/",
    "amqp://u: {}@h/",
    " amqp://u:{}@h/",
    "AMQP://u:{}@h/",
    "Amqps:///u:{}@h",
    "amqp://u:{}@",
    "amqp://u:{}",
    "amqp://:{}@h",
    "amqp://u:{}@@h",
    "amqp://u:a@{}@h",
    "amqp://u:{}@h:port/",
    "amqp://u:{}@h:1:2/",
    "amqp://u:{}@[::1/",
    "amqp://u:{}@::1]:5672/",
    "amqp://u:{}\n@h/",
    "amqp://u:\n{}@h/",
    "amqp://u:{}%@h/",
    "amqp://u:%zz{}@h/",
    "amqp://u:{}/x@h/",
    "amqp://u:{}#x@h/",
    "amqp://u:{}?x@h/",
    "amqp://u/{}@h/",
    "amqp://u;{}@h/",
    "amqp://u%3A{}@h/",
    "amqp://h/?password={}",
    "amqp://h/ password={}",
    "amqp://h/?auth={}",
    "mqp://u:{}@h/",
    "rabbitmq://u:{}@h/",
    "sqlite://u:{}@h/x.db",
    "sqlite:///x.db?password={}",
    "sqlite:///u:{}@h",
    "://u:{}@h/",
    "//u:{}@h/",
    "u:{}@h",
    "u:{}@h/vhost",
    "postgresql://u:{}@h/db",
    "postgres:/u:{}@h/db",
    "postgresql://u:{}@h/db name",
    "postgresql//u:{}@h/db",
    "postgressql://u:{}@h/db",
    "host=h user=u password={} dbname=x",
    "redis://u:{}@h/0",
    "http://u:{}@h/0",
    "mysql+pymysql://u:{}@h/0",
]


def pieces(text: str, length: int = 5) -> list[str]:
    return [PASSWORD[at : at + length] for at in range(len(PASSWORD) - length + 1) if PASSWORD[at : at + length] in text]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_is_refused_or_taken_without_its_password(url: str) -> None:
    given = url.format(PASSWORD)
    for variables in (
        {"CHAPPE_BROKER": given},
        {"AMQP_URL": given},
        {"CHAPPE_BROKER": "amqp://h/", "CHAPPE_STORE": given},
        {"CHAPPE_ALLOWED_HOSTS": given},
        {"CHAPPE_ALLOWED_ORIGINS": given},
        {"CHAPPE_LOG_LEVEL": given},
        {"CHAPPE_LOG_FORMAT": given},
        {"CHAPPE_PORT": given},
        {"CHAPPE_GRACE": given},
        {"CHAPPE_CONFIG": given.replace("\n", "")},
        {"CHAPPE_BROKR": given},
    ):
        try:
            found = repr(load({}, variables))
        except InvalidSettings as error:
            found = str(error)
        assert pieces(found) == [], variables
    with pytest.raises((ValueError, InvalidSettings)) as refused:
        Settings(broker="x://", store=given, log_level=given)
    assert pieces(str(refused.value)) == []


@pytest.mark.parametrize("url", MALFORMED)
def test_what_others_quote_of_it_is_hidden_too(url: str) -> None:
    given = url.format(PASSWORD)
    for quoted in (given, given[: len(given) // 2], given[3:-3], given.replace("/", "|"), repr(given)):
        assert pieces(without_secrets(f"cannot be read: {quoted}", secrets_in(given))) == []


ODD = "p\"a\\s/s w%ör&d🂡't"
ENCODED = {
    "JSON": json.dumps(ODD), "JSON in letters": json.dumps(ODD, ensure_ascii=False), "JSON of JavaScript": json.dumps(ODD).replace("/", "\\/"),
    "JSON in JSON": json.dumps({"url": json.dumps([ODD])}), "percent": quote(ODD, safe=""), "percent, partly": quote(ODD, safe='/"&%'),
    "percent in small letters": re.sub("%..", lambda found: found[0].lower(), quote(ODD)), "percent twice": quote(quote(ODD)),
    "percent in JSON": json.dumps(quote(ODD, safe='"')), "Python": repr(ODD), "Python in letters": ascii(ODD), "bytes": repr(ODD.encode()),
}  # fmt: skip


@pytest.mark.parametrize("form", ENCODED)
def test_a_secret_is_hidden_however_it_is_written(form: str) -> None:
    text = ENCODED[form].join(("before 100%, C:\\x ", " behind"))
    found = without_secrets(text, secrets_in(f"amqp://u:{quote(ODD)}@h/"))
    assert re.fullmatch(r"before 100%, C:\\x [^\w]*(b')?[^\w]*(url)?[^\w]*\*\*\*[^\w]* behind", found), found


@pytest.mark.parametrize(
    "text", ["%", "100%25 \\u00 \\", "\\ud83c \\u0041 \\Uffffffff %c3%28 %ff %ed%a0%80 \\xc0\\x80 \\X41", "a\\nb" * 3, ""]
)
def test_escapes_that_hold_no_secret_stay_as_they_are(text: str) -> None:
    assert without_secrets(text, {"password", "pa"}) == text


@pytest.mark.parametrize(
    "url", ["sqlite:///chappe.db", "sqlite:////var/lib/x.db", "amqp://h:5672/x", "amqp://u@h/", "amqp://h", "amqp://a:1,b:2/", "redis://x"]
)
def test_a_url_without_a_password_has_no_secret(url: str) -> None:
    assert secrets_in(url) == set()
    assert without_secrets(f"{url} cannot be read", secrets_in(url)) == f"{url} cannot be read"


def test_short_passwords_are_hidden_as_words_only() -> None:
    assert without_secrets("h: pa is wrong, path", secrets_in("amqp://u:pa@h/")) == "h: *** is wrong, path"
    assert without_secrets("user guest of guest", secrets_in("amqp://guest:guest@h/")) == "user guest of guest"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("redis://x", '"redis://x"'), ("chappe.db", '"chappe.db"'), ("host.example.org:80", '"host.example.org:80"'), ("*", '"*"'),
     ("amqp://x", None), ("u:p@h", None), ("x?y", None), ("a=b", None), ("x\n", None), ("http://u:p", None)],
)  # fmt: skip
def test_a_value_is_shown_if_it_cannot_hold_a_secret(value: str, expected: str | None) -> None:
    assert shown(value) == (expected or "(not shown, for it may hold a password)")


@pytest.mark.parametrize("token", ["tooshort1", "with spaces in it, and longer", "tóken-with-other-characters", f"{PASSWORD}\n{PASSWORD}"])
def test_a_refused_token_is_not_shown(token: str) -> None:
    settings = load({}, {"CHAPPE_TOKEN": token})
    with pytest.raises(InvalidSettings) as refused:
        refuse_open_bind(settings)
    assert token not in f"{refused.value}{settings!r}"
    assert without_secrets(f"it is {token}.") == "it is ***."


def test_settings_are_written_without_their_secrets() -> None:
    text = repr(Settings(broker=f"amqps://u:{PASSWORD}@h/", store=f"postgresql://u:{PASSWORD}@h/d", token=f"{PASSWORD}{PASSWORD}"))
    assert pieces(text) == [] and "amqps://u:***@h/" in text and "token='***'" in text
    assert repr(Settings()).startswith("Settings(app=None, broker='sqlite:///chappe.db', store=None")
