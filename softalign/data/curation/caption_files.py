"""Captions in files beside their image: ``.txt`` and ``.caption`` hold one, ``.json`` an object that holds some."""

from __future__ import annotations

import codecs
import json

from softalign.data.curation.rows import captions_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
"""What is taken for an image; those that this library does not read are rejected by name."""
TEXT_SUFFIXES = (".txt", ".caption", ".json")


def captions_in(texts: dict[str, bytes], caption_field: str) -> tuple[object, ...]:
    """Return the captions of an image, each once; what is no text stays as it is, to be rejected by name.

    Args:
        texts: the files' content by suffix.
        caption_field: of a JSON object, which holds a caption or a list of them.
    """
    found: list[object] = []
    for suffix in TEXT_SUFFIXES:
        if suffix not in texts:
            continue
        text = _text_of(texts[suffix])
        captions = (text,) if suffix != ".json" else _of_json(text, caption_field)
        found.extend(caption for caption in captions if caption not in found)
    return tuple(found)


def _of_json(text: str | bytes, caption_field: str) -> tuple[object, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return (b"",)  # a caption that is no text
    if not isinstance(content, dict) or content.get(caption_field) is None:
        return ()
    return captions_of((content[caption_field],))


def _text_of(data: bytes) -> str | bytes:
    """Return a file's text, in UTF-8, or UTF-16 with its mark; the bytes where it is neither."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        return data
