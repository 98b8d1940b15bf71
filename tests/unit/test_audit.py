"""What ``make audit`` says of pip-audit's answers."""

import json
import tomllib

import pytest

from infra import audit

KNOWN = {"name": "mlflow", "version": "3.10.0", "vulns": [
    {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-4137"], "fix_versions": ["3.11.0"], "description": "d"}
]}  # fmt: skip
CLEAN = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


def answer(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize("text", ["", "\n", answer(), answer(UNKNOWN, UNKNOWN)])
def test_a_service_that_is_away_is_said_and_is_no_failure(text):
    assert audit.verdict(text, frozenset()) == (0, [audit.NOT_REACHED])


def test_an_open_advisory_fails_with_the_mended_version():
    code, lines = audit.verdict(answer(KNOWN, CLEAN, UNKNOWN), frozenset())
    assert code == 1
    assert lines == [
        "2 packages audited, 1 unknown to the service",
        "mlflow 3.10.0: CVE-2026-4137, PYSEC-2026-1; mended in 3.11.0",
        "1 open, 0 accepted",
    ]


@pytest.mark.parametrize("name", ["CVE-2026-4137", "PYSEC-2026-1"])
def test_an_accepted_advisory_passes_by_any_of_its_names(name):
    code, lines = audit.verdict(answer(KNOWN), frozenset({name}))
    assert (code, lines[-1]) == (0, "0 open, 1 accepted")


def test_a_row_that_is_no_longer_needed_is_said():
    code, lines = audit.verdict(answer(CLEAN), frozenset({"CVE-1"}))
    assert code == 0
    assert "no longer found" in lines[1]


def test_what_is_accepted_has_a_reason_and_a_date():
    audit.accepted_ids(tomllib.loads(audit.ACCEPTED.read_text()))
    row = {"id": "a", "package": "b", "reason": "c", "date": "d"}
    assert audit.accepted_ids({"accepted": [row]}) == {"a"}
    for broken in ({"id": "a", "package": "b", "reason": "c"}, {**row, "reason": " "}):
        with pytest.raises(ValueError, match="reason"):
            audit.accepted_ids({"accepted": [broken]})
