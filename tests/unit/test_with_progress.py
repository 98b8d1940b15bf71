"""The installer's progress: a line every few seconds, everything in the log, the end of it where it fails."""

import sys

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def with_progress():
    return load_script("with_progress")


def test_progress_shows_what_is_done_and_the_log_has_everything(with_progress, tmp_path, capsys):
    program = "import time; print('Collecting torch', flush=True); print('noise', flush=True); time.sleep(1)"
    code = with_progress.run(tmp_path / "log", "Installing", [sys.executable, "-c", program], interval_s=0.2)
    said = capsys.readouterr().err.splitlines()
    assert code == 0
    assert said[0] == "Installing"
    assert any(line.startswith("  ... ") and line.endswith("Collecting torch") for line in said)
    assert said[-1].startswith("  done in ")
    assert "noise" not in "".join(said)
    assert (tmp_path / "log").read_text() == "Collecting torch\nnoise\n"


def test_a_failure_shows_the_end_of_the_log_and_gives_its_code(with_progress, tmp_path, capsys):
    program = "import sys; print('no space left'); sys.exit(3)"
    arguments = [str(tmp_path / "log"), "Installing", "--", sys.executable, "-c", program]
    assert with_progress.main(arguments) == 3
    said = capsys.readouterr().err
    assert "no space left" in said and "exit code 3" in said and str(tmp_path / "log") in said


def test_wrong_usage_and_long_lists(with_progress, capsys):
    assert with_progress.main(["log"]) == 2
    assert "usage" in capsys.readouterr().err
    assert with_progress.short("Installing collected packages: a, b, c\n") == "Installing 3 packages"
    assert len(with_progress.short("Downloading " + "x" * 200)) == with_progress.SHOWN_CHARS
