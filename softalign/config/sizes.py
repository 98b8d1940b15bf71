"""Sizes as people write them: ``20GB``."""

from __future__ import annotations

import re

from softalign.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_of(text: str, where: str) -> int:
    """Return a size such as ``20GB`` in bytes.

    Args:
        text: a number and B, KB, MB, GB or TB.
        where: what the size was given in, for the message.

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", text.strip().upper())
    if found is None or found[2] not in _UNITS:
        raise ConfigError(
            "This is no size.", expected="a number and B, KB, MB, GB or TB, such as 20GB", found=text, where=where
        )
    return int(float(found[1]) * _UNITS[found[2]])
