"""What of an address is secret, and texts without it.

An address is read as it was given: in ``http://ann:a/b@host`` the password is ``a/b``, though no library reads it so.
Secrets are taken out of texts in two ways: by the form of addresses, and word by word once an address was noted.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_PORT = r"\d{1,5}(?:[/?#\s'\"]|$)"
_LOGIN = re.compile(
    rf"(?<=://)(?<!models://)(?:[^\s'\"/@:\[]*:(?!/|{_PORT})[^\s'\"]*@"  # name and password, whatever that is made of
    r"|[^/\s'\"?#]*@)"  # a name alone, or a password that looks like a port
)
_HIDDEN_NAMES = (
    r"[\w.%-]*(?:token|signature|secret|passw|credential|session|api[-_]?key|access[-_]?key)[\w.%-]*"
    r"|(?:[\w.%-]*[-_.])?(?:sig|key|auth|pass|pwd|jwt|sas)"
)
_PARAMETER = re.compile(rf"(?P<head>[?&;](?:{_HIDDEN_NAMES})=)(?P<value>[^&;#\s'\"<>)]+)", re.IGNORECASE)
_MIN_CHARS = 4
"""Shorter words are taken out of addresses only: in other texts they stand for other things."""
_RARE_CHARS = 8
"""Shorter ones are taken out where they stand as a word: within others they are part of something else."""
HIDDEN = "***"
_NOTED: set[str] = set()


def secrets_of(uri: str, *, is_noted: bool = False) -> frozenset[str]:
    """Return the secrets of an address, in all spellings that others may show.

    Args:
        uri: any address, also one that no library can read.
        is_noted: take them out of all texts from now on.
    """
    found = {match["value"] for match in _PARAMETER.finditer(uri)} - {HIDDEN}
    for match in _LOGIN.finditer(uri):
        login = match[0].removesuffix("@")
        name, has_password, password = login.partition(":")
        found |= {login, password} if has_password else {name}
    found = {spelling for one in found for spelling in (one, unquote(one), quote(unquote(one), safe=""))} - {""}
    if is_noted:
        _NOTED.update(one for one in found if len(one) >= _MIN_CHARS)
    return frozenset(found)


def holds_secret(text: str) -> bool:
    """Return whether an address in a text has a login or a signed query."""
    return bool(secrets_of(text))


def without_secrets(text: str) -> str:
    """Return a text without the logins and signatures of the addresses in it, and without noted secrets."""
    for secret in sorted(_NOTED, key=len, reverse=True):
        if len(secret) < _RARE_CHARS:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
        else:
            text = text.replace(secret, HIDDEN)
    return _PARAMETER.sub(rf"\g<head>{HIDDEN}", _LOGIN.sub("", text))


def without_credentials(uri: str) -> str:
    """Return an address as it may be shown and kept: without login, and without what a query holds that is secret."""
    place, _, rest = _LOGIN.sub("", uri).partition("?")
    query, mark, fragment = rest.partition("#")
    kept = "&".join(part for part in query.split("&") if part and not _PARAMETER.match(f"?{part}"))
    return f"{place}{kept and '?'}{kept}{mark}{fragment}"


def is_misread(uri: str) -> bool:
    """Return whether libraries would take a part of an address's password for its host or path."""
    given = _LOGIN.search(uri)
    authority = re.match(r"[^/?#]*", uri.partition("://")[2])
    if given is None or authority is None:
        return False
    return given[0].removesuffix("@") != authority[0].rpartition("@")[0]
