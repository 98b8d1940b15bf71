"""How far a task is, for people at the orchestrator: lines in the run's log, and a progress artifact."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from softalign.processes.lines import PacedLines
from softalign.processes.pace import Clock
from softalign.processes.progress import StageProgress, listening
from tasks.posting import start_posting
from tasks.reporting import artifact_key, run_logger
from tasks.run_log import RELAYED

UPDATE_INTERVAL_S = 2.0
"""An artifact is updated this often at most."""
LAST_UPDATE_TIMEOUT_S = 5.0
"""How long the end of a count waits for the server; a stage that is done does not wait for its progress."""

Post = Callable[[StageProgress], None]


@contextmanager
def progress_of(recipe_name: str) -> Iterator[None]:
    """Show the progress of this task's stage while the block runs."""

    def say(line: str) -> None:
        run_logger().info(line, extra={RELAYED: True})  # a console listens to progress itself

    with listening(PacedLines(say)), listening(ProgressArtifacts(Artifacts(recipe_name))):
        yield


class Artifacts:
    """The progress artifacts of a task run, one for each of its counts, named after the recipe, stage and unit."""

    def __init__(self, recipe_name: str) -> None:
        self._recipe_name = recipe_name
        self._ids: dict[str, UUID] = {}

    def __call__(self, progress: StageProgress) -> None:
        """Create or update the artifact of a count."""
        key = artifact_key(self._recipe_name, f"{progress.stage}-{progress.unit}")
        percent = 100.0 * progress.done / progress.total if progress.total else 0.0
        if key in self._ids:
            update_progress_artifact(self._ids[key], percent, description=progress.to_text())
        else:
            created = create_progress_artifact(percent, key=key, description=progress.to_text())
            self._ids[key] = cast(UUID, created)  # a coroutine where a loop runs, and none does in a thread


class ProgressArtifacts:
    """A listener that posts progress every UPDATE_INTERVAL_S, in a thread: the work never waits for a slow server.

    What the server refuses is left out, whatever the reason: an artifact is for people, and the next one comes.

    Args:
        post: hands progress to the server.
        clock: for the interval.
    """

    def __init__(self, post: Post, clock: Clock = time.monotonic) -> None:
        self._post, self._clock = post, clock
        self._last_post = float("-inf")
        self._thread = threading.Thread()

    def __call__(self, progress: StageProgress) -> None:
        """Post it, if that is due and the last one has arrived; the end of a count always."""
        if progress.is_last:
            self._join()
        is_due = progress.is_last or self._clock() - self._last_post >= UPDATE_INTERVAL_S
        if not is_due or self._thread.is_alive():
            return
        self._last_post = self._clock()
        self._thread = start_posting("Progress", partial(self._post, progress), logging.DEBUG)
        if progress.is_last:
            self._join()

    def _join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(LAST_UPDATE_TIMEOUT_S)
