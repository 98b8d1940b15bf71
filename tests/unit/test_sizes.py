"""The limits on sizes: what is over them is named, and the list of known exceptions cannot outlive its reason."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "sizes.py"


@pytest.fixture(scope="module")
def sizes():
    spec = importlib.util.spec_from_file_location("sizes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(name, num_lines):
    return "\n".join([f"def {name}():", '    """Docstring."""', *["    pass"] * (num_lines - 2)]) + "\n"


def test_the_last_allowed_line_passes_and_the_next_does_not(sizes, tmp_path):
    (tmp_path / "sound.py").write_text(function("short", sizes.MAX_FUNCTION_LINES))
    (tmp_path / "full.py").write_text("x = 1\n" * sizes.MAX_FILE_LINES)
    assert sizes.report([str(tmp_path)], frozenset()) == []
    (tmp_path / "sound.py").write_text(
        "class C:\n    @property\n    async " + function("long", 41).replace("\n", "\n    ")
    )
    (tmp_path / "full.py").write_text("x = 1\n" * (sizes.MAX_FILE_LINES + 1))
    assert sizes.report([str(tmp_path)], frozenset()) == [
        f"{tmp_path}/full.py has 301 lines",
        f"{tmp_path}/sound.py:long has 41 lines",
    ]


def test_a_known_exception_is_passed_over_until_it_is_short(sizes, tmp_path):
    known = frozenset({f"{tmp_path}/known.py:long"})
    (tmp_path / "known.py").write_text(function("long", 41))
    assert sizes.report([str(tmp_path)], known) == []
    (tmp_path / "known.py").write_text(function("long", 40))
    assert sizes.report([str(tmp_path)], known) == [
        f"{tmp_path}/known.py:long is short enough by now: take it off KNOWN_LONG"
    ]
