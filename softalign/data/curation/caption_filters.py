"""Filters of captions: pure functions that return why one is refused, each under its own name.

A caption is refused for its form (length), for being none (a file name, a URL, a placeholder), or as the recipe asks.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from softalign.config.captions import Script
from softalign.config.curation import FilterConfig
from softalign.data.curation.decontamination import evaluation_prompts
from softalign.data.curation.rejections import Reason

CaptionFilter = Callable[[str, FilterConfig], str]
"""Returns what was found wrong, or an empty string."""
PLACEHOLDERS = frozenset({"nan", "none", "null", "nil", "n/a", "#n/a", "<na>", "nat", "undefined", "[null]", "(null)"})
"""What tables write where there is no text."""
_FILE_NAME = re.compile(
    r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|hei[cf]|avif|jfif|psd|raw|cr2|nef)"
    r"|(?:img|dsc[nf]?|pxl|mvimg|vid|gopr|screenshot|image|photo|picture|scan)[-_]?\d[\w-]*",
    re.IGNORECASE,
)
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]+://|www\.)\S+", re.IGNORECASE)
_BOILERPLATE = re.compile(
    r"\bstock (?:photos?|images?|pictures?|footage|illustrations?|vectors?|video)\b|\broyalty[- ]free\b"
    r"|\b(?:shutterstock|getty ?images|istock(?:photo)?|alamy|dreamstime|depositphotos|123rf|adobe ?stock)\b"
    r"|©|\(c\) ?\d{4}|\bcopyright\b|\ball rights reserved\b"
    r"|\b(?:photo|image|picture) (?:by|credit|courtesy)\b"
    r"|\b(?:click|tap|buy|shop|order|download|subscribe|sign up) (?:here|now|today)\b|\bfree (?:shipping|download)\b"
    r"|\bimage may contain\b|\bno (?:photo )?description available\b",
    re.IGNORECASE,
)
_SCRIPTS: dict[str, Script] = {
    "ARABIC": "arabic",
    "BENGALI": "bengali",
    "CJK": "chinese",
    "CYRILLIC": "cyrillic",
    "DEVANAGARI": "devanagari",
    "GREEK": "greek",
    "HANGUL": "korean",
    "HEBREW": "hebrew",
    "HIRAGANA": "japanese",
    "KATAKANA": "japanese",
    "LATIN": "latin",
    "THAI": "thai",
}


def caption_empty(caption: str, config: FilterConfig) -> str:
    """Refuse captions without a character that can be seen."""
    return "" if any(char.isprintable() and char != " " for char in caption) else "nothing to be seen"


def caption_too_short(caption: str, config: FilterConfig) -> str:
    """Refuse captions below ``min_caption_chars`` characters."""
    return f"{len(caption)} characters" if len(caption) < config.min_caption_chars else ""


def caption_too_long(caption: str, config: FilterConfig) -> str:
    """Refuse captions above ``max_caption_chars`` characters."""
    return f"{len(caption)} characters" if len(caption) > config.max_caption_chars else ""


def caption_placeholder(caption: str, config: FilterConfig) -> str:
    """Refuse what tables write where there is no text."""
    return "stands for no text" if config.captions.drop_non_captions and caption.lower() in PLACEHOLDERS else ""


def caption_no_words(caption: str, config: FilterConfig) -> str:
    """Refuse captions without a letter, a number or a picture character."""
    if not config.captions.drop_non_captions:
        return ""
    has_words = any(unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "So" for char in caption)
    return "" if has_words else "punctuation alone"


def caption_file_name(caption: str, config: FilterConfig) -> str:
    """Refuse captions that are an image file's name, or a camera's number of one."""
    return "a file name" if config.captions.drop_non_captions and _FILE_NAME.fullmatch(caption) else ""


def caption_url(caption: str, config: FilterConfig) -> str:
    """Refuse captions that are a URL; one within a text stays."""
    return "a URL" if config.captions.drop_non_captions and _URL.fullmatch(caption) else ""


def caption_boilerplate(caption: str, config: FilterConfig) -> str:
    """Refuse captions with phrases of stock agencies, shops and rights, if ``drop_boilerplate`` asks for it."""
    found = _BOILERPLATE.search(caption) if config.captions.drop_boilerplate else None
    return found[0].lower() if found else ""


def caption_other_script(caption: str, config: FilterConfig) -> str:
    """Refuse captions most of whose letters are of none of ``scripts``."""
    if not config.captions.scripts:
        return ""
    letters = Counter(script_of(char) for char in caption if char.isalpha())
    num_wanted = sum(letters[script] for script in config.captions.scripts)
    if 2 * num_wanted >= letters.total():
        return ""
    return max(letters, key=lambda script: (letters[script], script))


def caption_denied(caption: str, config: FilterConfig) -> str:
    """Refuse captions in which one of ``deny`` is found."""
    return next((pattern for pattern in config.captions.deny if _found(pattern, caption)), "")


def caption_not_allowed(caption: str, config: FilterConfig) -> str:
    """Refuse captions in which none of ``allow`` is found."""
    wanted = config.captions.allow
    return "" if not wanted or any(_found(pattern, caption) for pattern in wanted) else "none of allow"


def caption_of_evaluation(caption: str, config: FilterConfig) -> str:
    """Refuse captions that say a prompt of ``exclude_prompts``."""
    names = config.captions.exclude_prompts
    return evaluation_prompts(names).found_in(caption) if names else ""


CAPTION_FILTERS: dict[Reason, CaptionFilter] = {
    "caption_empty": caption_empty,
    "caption_placeholder": caption_placeholder,
    "caption_no_words": caption_no_words,
    "caption_file_name": caption_file_name,
    "caption_url": caption_url,
    "caption_too_short": caption_too_short,
    "caption_too_long": caption_too_long,
    "caption_boilerplate": caption_boilerplate,
    "caption_other_script": caption_other_script,
    "caption_denied": caption_denied,
    "caption_not_allowed": caption_not_allowed,
    "caption_of_evaluation": caption_of_evaluation,
}


@lru_cache(maxsize=4096)
def script_of(char: str) -> str:
    """Return a letter's script; ``other`` where recipes have no name for it."""
    return _SCRIPTS.get(unicodedata.name(char, "").partition(" ")[0], "other")


def _found(pattern: str, caption: str) -> bool:
    return _compiled(pattern).search(caption) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    is_plain = all(char.isalnum() or char in " '-_" for char in pattern)
    return re.compile(rf"\b{re.escape(pattern)}\b" if is_plain else pattern, re.IGNORECASE)
