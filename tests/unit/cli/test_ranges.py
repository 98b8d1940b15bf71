"""Numbers that a command refuses by their range, before anything is loaded."""

import sys

import pytest

from softalign.cli import app

GENERATE = ("generate", "none", "a cat", "--base", "nosuch", "--out", "made")
EDIT = ("edit", "nofile.png", "--from", "a", "--to", "b", "--base", "nosuch")
GENEVAL = ("geneval", "generate", "nosuch", "--out", "made")
OPTIONS = [
    *((command, option) for command in (GENERATE, GENEVAL) for option in ("--guidance-scale", "--scale")),
    *((EDIT, option) for option in ("--source-guidance-scale", "--target-guidance-scale", "--scale")),
]


def failed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["softalign", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code, " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.parametrize(
    ("command", "option"), OPTIONS, ids=lambda value: value if isinstance(value, str) else value[0]
)
@pytest.mark.parametrize("value", ["inf", "nan", "1e30", "1e300", "1000.1", "-inf", "-1"])
def test_a_strength_outside_of_its_range_is_a_usage_error(tmp_path, monkeypatch, capsys, command, option, value):
    monkeypatch.chdir(tmp_path)
    code, said = failed(monkeypatch, capsys, *command, option, value)
    assert code == 2
    assert f"Invalid value for '{option}'" in said
    assert "1000" in said or value.startswith("-")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("command", "options", "refused"),
    [
        (GENERATE, ("--guidance-scale", "--scale"), "made"),  # a file is in its place
        (EDIT, ("--source-guidance-scale", "--target-guidance-scale", "--scale"), "nofile.png"),
    ],
)
def test_the_end_of_the_range_is_within_it(tmp_path, monkeypatch, capsys, command, options, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").write_text("")
    _code, said = failed(monkeypatch, capsys, *command, *(word for option in options for word in (option, "1000")))
    assert "Invalid value" not in said and refused in said
