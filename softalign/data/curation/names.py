"""File names as tables give them: which can name a file below the image folder, and how the others are shown."""

from __future__ import annotations

import re
import unicodedata

from softalign.data.curation.rejections import Flaw

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def flaw_of_name(name: object) -> Flaw | None:
    """Return why a table's cell cannot name a file below the image folder, or None.

    Args:
        name: the cell; bytes where it is no UTF-8.
    """
    if name is None or name == "":
        return Flaw("no_name")
    if isinstance(name, bytes) or (isinstance(name, str) and has_surrogates(name)):
        return Flaw("name_not_text", "no valid Unicode")
    if not isinstance(name, str):
        return Flaw("name_not_text", type(name).__name__)
    problem = _unsafe(name)
    return Flaw("unsafe_path", problem) if problem else None


def has_surrogates(text: str) -> bool:
    """Whether a text holds halves of characters, which no file and no table can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(name: object) -> str:
    """Return a cell as valid text, with escapes where it is none."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    text = name if isinstance(name, str) else repr(name)[:200]
    return text.encode("utf-8", "backslashreplace").decode()


def other_spellings(name: str) -> dict[str, str]:
    """Return the names that may have been meant, with what they differ in: separators, the form of accents."""
    spellings = {name.replace("\\", "/"): "with / in the place of \\ it is there"}
    for form in ("NFC", "NFD"):
        spellings[unicodedata.normalize(form, name)] = f"in Unicode's form {form} it is there"
    spellings.pop(name, None)
    return spellings


def _unsafe(name: str) -> str:
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if "\0" in name:
        return "a zero byte"
    if _URL.match(name):
        return "a URL"
    if path.startswith("/") or _DRIVE.match(name):
        return "an absolute path"
    if ".." in parts:
        return "leads out of the image folder"
    return "" if parts else "names the image folder itself"
