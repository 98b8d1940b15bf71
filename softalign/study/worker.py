"""The child process that runs one cell: ``python -m softalign.study.worker PARENT_PID``.

It reads its job from standard input and answers on standard output in ``softalign.processes.messages``, as the stages'
own children do, which are its children.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from types import FrameType

from softalign.errors import PreemptedError, SoftAlignError, UnexpectedError
from softalign.processes.messages import Channel, ChannelHandler, Failure, Result
from softalign.processes.supervise import KEPT_LINES, watch_parent
from softalign.study.jobs import CellJob
from softalign.study.outcomes import run_cell

logger = logging.getLogger("softalign")


def answer(job: CellJob, channel: Channel) -> int:
    """Run a cell, send its outcome or error, and return the exit code, which is the error's."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ChannelHandler(channel)])
    signal.signal(signal.SIGTERM, _leave)
    try:
        outcome = run_cell(job, logger.info)
    except SoftAlignError as error:
        channel.send(Failure.of(error))
        return error.exit_code
    except OSError:
        raise  # of the machine: this process dies, and the parent's error says so
    except Exception as error:
        bug = UnexpectedError(
            "A cell met an unexpected error; what it finished is kept.",
            found="\n    ".join("".join(traceback.format_exception(error)).splitlines()[-KEPT_LINES:]),
            fix="this looks like a bug: report it with these lines",
        )
        channel.send(Failure.of(bug))
        return bug.exit_code
    channel.send(Result(payload=outcome.model_dump(mode="json")))
    return 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End this process through whatever it is in, so that the stage's child is stopped after a checkpoint."""
    raise SystemExit(PreemptedError.exit_code)


if __name__ == "__main__":
    _channel = Channel.over_stdout()
    watch_parent(int(sys.argv[1]))
    _code = answer(CellJob.model_validate_json(sys.stdin.buffer.read()), _channel)
    sys.stderr.flush()
    os._exit(_code)
