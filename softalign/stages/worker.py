"""The child process of ``softalign.processes.supervise``: ``python -m softalign.stages.worker REQUEST ANSWER``."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from softalign.artifacts import Adapter, EncodedManifest, Record
from softalign.config.recipe import Recipe
from softalign.errors import PreemptedError, SoftAlignError, UnexpectedError
from softalign.processes.supervise import KEPT_LINES, error_to_json, watch_parent
from softalign.processes.watchdog import Watchdog
from softalign.store.files import write_atomically
from softalign.store.store import Store

logger = logging.getLogger(__name__)


def run_request(request: dict[str, Any]) -> Record:
    """Run the requested stage (``train`` or ``evaluate``) and return its record."""
    recipe = Recipe.model_validate(request["recipe"])
    store = Store(request["store"])
    logger.info("Loading PyTorch and the model")
    if request["stage"] == "train":
        from softalign.training.train import train

        encoded = EncodedManifest.model_validate(request["record"])
        key, watchdog = request["key"], Watchdog(recipe.runtime.hang_timeout_s)
        return train(encoded, recipe.backbone, recipe.train, recipe.runtime, store, key, recipe.name, watchdog)
    from softalign.evaluation.arms import evaluate

    adapter = Adapter.model_validate(request["record"]) if request["record"] else None
    arm, key = request["arm"], request["key"]
    return evaluate(arm, adapter, recipe.backbone, recipe.evaluate, recipe.runtime, store, key)


def main() -> int:
    """Answer one request; the exit code is the error's. Of several ranks each writes the answer, all the same one."""
    request_path, answer_path = Path(sys.argv[1]), Path(sys.argv[2])
    request = json.loads(request_path.read_text(encoding="utf-8"))
    rank = int(os.environ.get("RANK", "0"))
    level, form = (logging.INFO, "%(message)s") if rank == 0 else (logging.WARNING, f"process {rank}: %(message)s")
    logging.basicConfig(level=level, format=form, stream=sys.stderr)
    # what has something to keep listens itself; loading a model has nothing, and may take minutes
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(PreemptedError.exit_code))
    watch_parent(request["parent_pid"])
    answer: dict[str, Any]
    try:
        answer, code = {"record": run_request(request).model_dump(mode="json")}, 0
    except SoftAlignError as error:
        answer, code = {"error": error_to_json(error)}, error.exit_code
    except Exception as error:
        if _may_pass(error):
            raise  # the child dies, and the parent's error is worth a retry
        bug = UnexpectedError(
            f"{request['stage']} met an unexpected error; its checkpoints are kept.",
            found="\n    ".join("".join(traceback.format_exception(error)).splitlines()[-KEPT_LINES:]),
            fix="this looks like a bug: report it with these lines",
        )
        answer, code = {"error": error_to_json(bug)}, bug.exit_code
    write_atomically(answer_path, json.dumps(answer).encode())
    return code


def _may_pass(error: Exception) -> bool:
    """Return whether an error may come from outside: the system's, or what other ranks raise when one is lost."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and os.environ.get("WORLD_SIZE", "1") != "1")


if __name__ == "__main__":
    _code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)  # all is written, and taking torch apart takes seconds (measured: 5.2 on a busy machine)
