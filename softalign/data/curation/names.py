"""File names as tables give them: which can name a file below the image folder, and how the others are shown."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from softalign.data.curation.rejections import Flaw
from softalign.store.files import is_local, local_path_of

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
HTTP = ("http://", "https://")
MAX_SHOWN_CAPTION_CHARS = 200
_BACKSLASH = "\\"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class NameRules:
    """What a source's cells may name.

    Attributes:
        roots: the beginnings of absolute paths (and URIs) of files below the image folder.
        are_urls_allowed: a cell may be an ``http://`` or ``https://`` URL.
        has_folder: there is an image folder, so that a cell may be a path.
    """

    roots: tuple[str, ...] = ()
    are_urls_allowed: bool = False
    has_folder: bool = True

    @classmethod
    def of_folder(cls, images_uri: str | None, *, are_urls_allowed: bool = False) -> NameRules:
        """Return the rules of an image folder; of a local one absolute paths are known with links followed or not.

        Args:
            images_uri: the folder; None: there is none.
            are_urls_allowed: see above.
        """
        if images_uri is None:
            return cls((), are_urls_allowed, has_folder=False)
        places = [images_uri]
        if images_uri and is_local(images_uri):
            path = local_path_of(images_uri)
            places = [os.path.abspath(path), os.path.realpath(path), f"file://{os.path.abspath(path)}"]
        roots = (f"{place.replace(_BACKSLASH, '/').rstrip('/')}/" for place in places if place)
        return cls(tuple(dict.fromkeys(roots)), are_urls_allowed)

    def read(self, cell: object) -> str | Flaw:
        """Return what a cell names: a path relative to the image folder, or a URL; or why it names none."""
        name = self.relative(cell)
        if self.are_urls_allowed and isinstance(name, str) and is_url(name):
            return _flaw_of_url(name) or name
        if (flaw := flaw_of_name(name)) is not None:
            return flaw
        return str(name) if self.has_folder else Flaw("unsafe_path", "a path, and the source has no images_uri")

    def relative(self, cell: object) -> object:
        """Return a cell's path relative to the image folder where it is an absolute one below it; others as they are.

        So a dataset does not hold where a machine keeps its files.
        """
        if not isinstance(cell, str):
            return cell
        path = cell.replace(_BACKSLASH, "/")
        root = next((root for root in self.roots if path.startswith(root)), None)
        if root is None:
            return cell
        return unquote(path[len(root) :]) if root.startswith(HTTP) else path[len(root) :].lstrip("/")


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


def is_url(name: str) -> bool:
    """Whether a name is the URL of something behind HTTP."""
    return name.lower().startswith(HTTP)


def _flaw_of_url(url: str) -> Flaw | None:
    if has_surrogates(url):
        return Flaw("name_not_text", "no valid Unicode")
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0 and not any(char < " " for char in url)
    except ValueError:
        is_whole = False
    if not is_whole:
        return Flaw("unsafe_path", "no whole URL")
    # it would stand in the dataset
    return Flaw("unsafe_path", "a URL with a password") if "@" in parts.netloc else None


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


def shown_caption(raw: object) -> str:
    """Return the beginning of a caption as it was listed, as valid text."""
    return shown(raw)[:MAX_SHOWN_CAPTION_CHARS]


def other_spellings(name: str) -> tuple[str, ...]:
    """Return the names by which the same file may lie in a folder: / for Windows' separator, other forms of accents."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    spellings = dict.fromkeys((*forms, *(form.replace(_BACKSLASH, "/") for form in forms)))
    spellings.pop(name)
    return tuple(spellings)


def _unsafe(name: str) -> str:
    path = name.replace(_BACKSLASH, "/")
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
