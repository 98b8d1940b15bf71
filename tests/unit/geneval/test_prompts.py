import hashlib
from collections import Counter

import pytest

from softalign.errors import DataError
from softalign.geneval.prompts import (
    CLASSES,
    TAGS,
    Clause,
    GenevalPrompt,
    from_json_line,
    official_prompts,
    to_json_line,
    with_article,
)

OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def test_the_official_file_is_regenerated_byte_for_byte():
    text = "".join(to_json_line(prompt) + "\n" for prompt in official_prompts())
    assert hashlib.sha256(text.encode()).hexdigest() == OFFICIAL_SHA256


def test_553_prompts_of_six_tags_without_duplicates():
    prompts = official_prompts()
    assert len(prompts) == len(set(prompts)) == 553
    counts = Counter(prompt.tag for prompt in prompts)
    assert tuple(counts) == TAGS
    assert counts["single_object"] == len(CLASSES) == len(set(CLASSES)) == 80


def test_people_are_never_coloured():
    assert not any(
        clause.color and clause.class_name == "person" for prompt in official_prompts() for clause in prompt.include
    )


def test_lines_read_back_as_written():
    for prompt in official_prompts():
        assert from_json_line(to_json_line(prompt), where="line") == prompt


def test_the_class_key_is_official_and_clauses_keep_their_order():
    prompt = GenevalPrompt(
        tag="position",
        include=(Clause(class_name="dog", count=1), Clause(class_name="cat", count=1, position=("left of", 0))),
        prompt="a photo of a cat left of a dog",
    )
    assert to_json_line(prompt) == (
        '{"tag": "position", "include": [{"class": "dog", "count": 1}, '
        '{"class": "cat", "count": 1, "position": ["left of", 0]}], "prompt": "a photo of a cat left of a dog"}'
    )


@pytest.mark.parametrize(("words", "expected"), [("apple", "an apple"), ("dog", "a dog"), ("umbrella", "an umbrella")])
def test_the_article_follows_the_first_letter(words, expected):
    assert with_article(words) == expected


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"tag": "other", "include": [], "prompt": "x"}',
        '{"tag": "colors", "include": [{"count": 1}], "prompt": "x"}',
        '{"tag": "colors", "include": [{"class": "dog", "count": 1}]}',
        '{"tag": "position", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}], "prompt": "x"}',
        '{"tag": "position", "include": [{"class": "dog", "count": 1, "position": ["above", 3]}], "prompt": "x"}',
    ],
)
def test_unreadable_metadata_says_where(line):
    with pytest.raises(DataError) as caught:
        from_json_line(line, where="00007/metadata.jsonl")
    assert "00007/metadata.jsonl" in str(caught.value)


def test_keys_of_other_tools_are_ignored():
    line = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "x", "seed": 3}'
    assert from_json_line(line, where="line").prompt == "x"
