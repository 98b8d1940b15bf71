"""The child process of ``softalign.processes.supervise``: ``python -m softalign.stages.worker PARENT_PID``.

It reads its job from standard input, and answers on standard output in ``softalign.processes.messages``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback

from softalign.artifacts import EncodedManifest, Record
from softalign.errors import PreemptedError, SoftAlignError, UnexpectedError
from softalign.processes.locking import exclusive
from softalign.processes.messages import Channel, ChannelHandler, Failure, Result
from softalign.processes.metering import UsageSender, own_usage
from softalign.processes.progress import StageProgress, listening, overhearing
from softalign.processes.supervise import KEPT_LINES, watch_parent
from softalign.processes.watchdog import Watchdog
from softalign.stages.jobs import EncodeJob, EvaluateJob, Job, TrainJob, from_json
from softalign.store.store import Store

logger = logging.getLogger(__name__)


def run_job(job: Job) -> Record:
    """Do what was asked for and return the stage's record."""
    recipe, store = job.recipe, Store(job.store, job.held)
    logger.info("Loading PyTorch and the model")
    match job:
        case EncodeJob():
            return _encode(job, store)
        case TrainJob():
            from softalign.training.train import train

            watchdog = Watchdog(recipe.runtime.hang_timeout_s)
            return train(
                job.encoded, recipe.backbone, recipe.train, recipe.runtime, store, job.key, recipe.name, watchdog
            )
        case EvaluateJob():
            from softalign.evaluation.arms import evaluate

            return evaluate(
                job.arm,
                job.adapter,
                recipe.backbone,
                recipe.evaluate,
                recipe.runtime,
                store,
                job.key,
                champion_path=job.champion_path,
                lent=job.lent,
            )


def _encode(job: EncodeJob, store: Store) -> EncodedManifest:
    from softalign.data.encoding.encode import encode

    recipe = job.recipe
    with exclusive(store.work_path("encode", job.key)):
        finished = store.find(EncodedManifest, job.key)
        if finished is not None:  # by another process, while this one waited for the folder
            return finished
        negatives = recipe.train.negatives
        return encode(
            job.dataset, recipe.backbone, recipe.runtime, store, job.key, negatives, job.before, recipe.encode.text
        )


def answer(job: Job, channel: Channel) -> int:
    """Do a job, send its result or error, and return the exit code, which is the error's.

    Of several ranks each answers, all the same; the first alone says how far it is.
    """
    rank = int(os.environ.get("RANK", "0"))
    level, form = (logging.INFO, "%(message)s") if rank == 0 else (logging.WARNING, f"process {rank}: %(message)s")
    logging.basicConfig(level=level, format=form, handlers=[ChannelHandler(channel)])
    # what has something to keep listens itself; loading a model has nothing, and may take minutes
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(PreemptedError.exit_code))
    try:
        with listening(channel.send if rank == 0 else _ignore), overhearing(UsageSender(channel.send)):
            record = run_job(job)
    except SoftAlignError as error:
        channel.send(Failure.of(error))
        return error.exit_code
    except Exception as error:
        if _may_pass(error):
            raise  # the child dies, and the parent's error is worth a retry
        bug = UnexpectedError(
            f"{job.stage} met an unexpected error; its checkpoints are kept.",
            found="\n    ".join("".join(traceback.format_exception(error)).splitlines()[-KEPT_LINES:]),
            fix="this looks like a bug: report it with these lines",
        )
        channel.send(Failure.of(bug))
        return bug.exit_code
    finally:
        channel.send(own_usage())
    channel.send(Result(payload=record.model_dump(mode="json")))
    return 0


def _ignore(_progress: StageProgress) -> None:
    """Leave out how far a rank is: all are as far as the first."""


def _may_pass(error: Exception) -> bool:
    """Return whether an error may come from outside: the system's, or what other ranks raise when one is lost."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and os.environ.get("WORLD_SIZE", "1") != "1")


if __name__ == "__main__":
    _channel = Channel.over_stdout()
    watch_parent(int(sys.argv[1]))
    _code = answer(from_json(sys.stdin.buffer.read()), _channel)
    sys.stderr.flush()
    os._exit(_code)  # all is written, and taking torch apart takes seconds (measured: 5.2 on a busy machine)
