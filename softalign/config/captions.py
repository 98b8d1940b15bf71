"""What is mended in captions, and which are left out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from softalign.artifacts import Frozen
from softalign.config.base import Count, Ratio

Script = Literal[
    "arabic", "bengali", "chinese", "cyrillic", "devanagari", "greek", "hebrew", "japanese", "korean", "latin", "thai"
]
GENEVAL = "geneval"


def _check_pattern(text: str) -> str:
    if not text.strip():
        raise ValueError("an empty pattern would match every caption")
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_check_pattern)]
"""Words, found as whole words, or a regular expression; whatever the case."""


class CaptionFilterConfig(Frozen):
    """What is mended in captions, and which are left out; what is mended or left out is listed with its reason."""

    repair: bool = Field(
        True, description="mend mojibake, HTML entities and tags, byte order marks and direction controls"
    )
    drop_non_captions: bool = Field(
        True, description="leave out file names, URLs, placeholders such as nan and null, and punctuation alone"
    )
    drop_boilerplate: bool = Field(
        False, description="leave out captions with stock agencies', shops' or rights' phrases"
    )
    max_images_per_text: Count | None = Field(
        None, description="leave out texts that more images than this are listed with, whatever the case; null: none"
    )
    max_similarity: Ratio | None = Field(
        None,
        description="of one image's captions leave out those that are more alike to an earlier one; 1: those that "
        "differ in case, punctuation and articles alone; null: none",
    )
    scripts: tuple[Script, ...] = Field(
        (), description="leave out captions most of whose letters are of other scripts; empty: of any"
    )
    deny: tuple[Pattern, ...] = Field(
        (), description="words, phrases or regular expressions, of any case; captions with one of them are left out"
    )
    allow: tuple[Pattern, ...] = Field(
        (), description="likewise; captions with none of them are left out; empty: all are allowed"
    )
    exclude_prompts: tuple[str, ...] = Field(
        (),
        description="leave out captions that say an evaluation's prompt: geneval, or paths and URIs of files with a "
        "prompt a line (text, or JSON objects with a key prompt)",
    )
