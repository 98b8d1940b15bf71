"""Progress lines become a bar on a terminal, and stay lines elsewhere."""

import io

from softalign.console import ConsoleLines


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_lines_stay_lines():
    stream = io.StringIO()
    say = ConsoleLines(stream)
    say("step 3/10  loss 1")
    say("done")
    assert stream.getvalue() == "step 3/10  loss 1\ndone\n"


def test_on_a_terminal_progress_moves_in_place_and_other_lines_start_anew():
    stream = Terminal()
    say = ConsoleLines(stream)
    say("start")
    say("step 5/10  loss 1")
    say("step 10/10  loss 0.5")
    say("done")
    start, progress, done, _ = stream.getvalue().split("\n")
    assert (start, done) == ("start", "done")
    half, full = progress.split("\r\x1b[K")[1:]
    assert half == "step [############............] 5/10  loss 1"
    assert full.startswith("step [########################] 10/10")
