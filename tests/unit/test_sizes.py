"""The limits on sizes: what is over them is named."""

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def sizes():
    return load_script("sizes")


def function(name, num_lines):
    return "\n".join([f"def {name}():", '    """Docstring."""', *["    pass"] * (num_lines - 2)]) + "\n"


def test_what_cannot_be_measured_is_a_problem(sizes, tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    problems = sizes.report([str(tmp_path), str(tmp_path / "nowhere")])
    assert [problem.partition(":")[0] for problem in problems] == [
        f"{tmp_path}/nowhere is not there",
        f"{tmp_path}/broken.py is no Python file",
        f"{tmp_path}/latin.py is no Python file",
    ]


def test_the_last_allowed_line_passes_and_the_next_does_not(sizes, tmp_path):
    (tmp_path / "sound.py").write_text(function("short", sizes.MAX_FUNCTION_LINES))
    (tmp_path / "full.py").write_text("x = 1\n" * sizes.MAX_FILE_LINES)
    assert sizes.report([str(tmp_path)]) == []
    (tmp_path / "sound.py").write_text(
        "class C:\n    @property\n    async " + function("long", 41).replace("\n", "\n    ")
    )
    (tmp_path / "full.py").write_text("x = 1\n" * (sizes.MAX_FILE_LINES + 1))
    assert sizes.report([str(tmp_path)]) == [
        f"{tmp_path}/full.py has 301 lines",
        f"{tmp_path}/sound.py:long has 41 lines",
    ]
