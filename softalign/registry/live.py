"""The run of a training while it trains: begun with it, resumed with it, fed from its work folder by a thread.

Everything here is best effort. A registry that is slow, away or refuses costs one warning and no time: what is missing
then is completed by the registration. The training itself knows nothing of it.
"""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from softalign.artifacts import Adapter, EncodedManifest
from softalign.config.recipe import Recipe
from softalign.credentials import without_secrets
from softalign.errors import ConfigError, LeaseLostError, PreemptedError, SoftAlignError
from softalign.registry.connection import SQLITE, TRACKING_VARIABLE, public_uri, registry_client, tracking_uri
from softalign.registry.curves import Curves
from softalign.registry.experiments import experiment_of
from softalign.registry.links import page_of_run
from softalign.registry.run_facts import SAMPLES_FOLDER, facts_of, log_facts
from softalign.registry.system_metrics import SystemMetrics
from softalign.registry.training_runs import training_run
from softalign.run_context import is_to_register
from softalign.store.adapter_files import METRICS_FILENAME
from softalign.store.metrics_log import GrowingLog
from softalign.store.store import Store

logger = logging.getLogger(__name__)

INTERVAL_S = 5.0
"""Between two looks at the work folder."""
END_WAIT_S = 5.0
"""How long the end of a command waits for the last rows; a chain that goes on does not wait."""
Outcome = Literal["FINISHED", "FAILED", "KILLED"]
"""MLflow's words; KILLED: stopped, and to be resumed."""


@dataclass(frozen=True)
class Training:
    """What is trained, and where: ``uri`` is the registry's, ``key`` the stage key."""

    recipe: Recipe
    encoded: EncodedManifest
    store: Store
    key: str
    uri: str


@contextmanager
def live_run(recipe: Recipe, encoded: EncodedManifest, store: Store, key: str) -> Iterator[None]:
    """Keep a run of the training that happens in this block, where a registry is meant and MLflow is installed.

    A registry is meant where recipe or environment name one, the store has one, or the chain goes on to register.

    Args:
        recipe: what is trained.
        encoded: on what.
        store: whose work folder the training writes to.
        key: the stage key of the training.
    """
    uri = registry_meant(recipe, store)
    if uri is None:
        yield
        return
    follower = _Follower(Training(recipe, encoded, store, key, uri))
    follower.start()
    outcome: Outcome | None = "KILLED"  # by Ctrl-C or SIGTERM, which are no Exception
    try:
        yield
        outcome = "FINISHED"
    except PreemptedError:
        raise
    except LeaseLostError:  # another process goes on with it, and has the run
        outcome = None
        raise
    except Exception:
        outcome = "FAILED"
        raise
    finally:
        follower.end(outcome)


def registry_meant(recipe: Recipe, store: Store) -> str | None:
    """Return the registry that runs are logged to; None where none is meant, or MLflow is not installed."""
    try:
        uri = tracking_uri(recipe.runtime, store)
    except ConfigError:
        return None
    is_named = recipe.runtime.tracking_uri or os.environ.get(TRACKING_VARIABLE)
    is_meant = is_named or is_to_register() or Path(uri.removeprefix(SQLITE)).is_file()
    return uri if is_meant and importlib.util.find_spec("mlflow") is not None else None


class _Follower:
    """The thread that posts what a training writes."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._run: _OpenRun | None = None
        self._outcome: Outcome | None = None
        self._ended = threading.Event()
        self._has_begun = self._has_warned = False
        follow = contextvars.copy_context().run
        self._thread = threading.Thread(target=follow, args=(self._follow,), name="live run", daemon=True)

    def start(self) -> None:
        """Begin; the first thing is to find or make the run."""
        self._thread.start()

    def end(self, outcome: Outcome | None) -> None:
        """Say how the training ended; None: it goes on elsewhere."""
        self._outcome = outcome
        self._ended.set()
        is_worth_waiting = not is_to_register() if outcome == "FINISHED" else self._has_begun
        if is_worth_waiting and not self._has_warned:
            self._thread.join(END_WAIT_S)

    def _follow(self) -> None:
        self._attempt(self._post)
        while not self._ended.wait(INTERVAL_S):
            self._attempt(self._post)
        outcome = self._outcome
        if self._has_begun and outcome is not None:
            self._attempt(lambda client: self._opened(client).close(client, outcome))

    def _post(self, client: Any) -> None:
        is_too_late = self._ended.is_set() and not self._has_begun and is_to_register()
        if not is_too_late:  # else the registration, which may be at work by now, makes the run
            self._opened(client).post(client)

    def _opened(self, client: Any) -> _OpenRun:
        """Return the run; the first time its page is said."""
        if self._run is None:
            self._run = _open_run(client, self._training)
            page = page_of_run(public_uri(self._training.uri, self._training.store), self._run.id)
            if page and not self._has_begun:
                logger.info("This training can be watched at %s", page)
            self._has_begun = True
        return self._run

    def _attempt(self, work: Callable[[Any], None]) -> None:
        """Do something with the registry; what hinders it is said once, and the run looked up again next time."""
        try:
            with registry_client(self._training.uri) as client:
                work(client)
        except ConfigError as error:  # only a part of MLflow is installed
            logger.debug("no live run: %s", error)
        except Exception as error:  # whatever a registry or its client raises: the training goes on
            self._run = None
            if not self._has_warned:
                what = error.what if isinstance(error, SoftAlignError) else without_secrets(repr(error)[:300])
                logger.warning(
                    "The training's MLflow run lags behind; training goes on, and registering completes it: %s", what
                )
            self._has_warned = True


class _OpenRun:
    """A run that is being fed."""

    def __init__(self, client: Any, training: Training, run: Any) -> None:
        self.id: str = run.info.run_id
        self._training, self._curves, self._system = training, Curves(run), SystemMetrics(client, run)
        self._folder = training.store.work_path("train", training.key)
        self._log = GrowingLog(self._folder / METRICS_FILENAME)
        self._posted = {item.path for item in client.list_artifacts(self.id, SAMPLES_FOLDER)}

    def post(self, client: Any) -> None:
        """Post what the work folder holds by now."""
        self._system.sample(client)
        self._post_files(client, self._folder, self._log)

    def close(self, client: Any, outcome: Outcome) -> None:
        """Post the rest, which lies with the adapter once it is published, and end the run."""
        store = self._training.store
        adapter = store.find(Adapter, self._training.key) if outcome == "FINISHED" else None
        if adapter is None:
            self._post_files(client, self._folder, self._log)
        else:
            folder = store.fetch(adapter)
            self._post_files(client, folder, GrowingLog(folder / METRICS_FILENAME))
        client.set_terminated(self.id, outcome)

    def _post_files(self, client: Any, folder: Path, log: GrowingLog) -> None:
        self._curves.post(client, log.new_rows())
        for path in sorted((folder / SAMPLES_FOLDER).glob("[!.]*")):  # hidden: being written
            place = f"{SAMPLES_FOLDER}/{path.name}"
            if place not in self._posted:
                with suppress(FileNotFoundError):  # the training has just ended, and its folder is gone
                    client.log_artifact(self.id, str(path), SAMPLES_FOLDER)
                    self._posted.add(place)


def _open_run(client: Any, training: Training) -> _OpenRun:
    """Find the run of a training, or make it, and say what is known from the start."""
    recipe = training.recipe
    experiment_id = experiment_of(client, recipe.register_.experiment, training.uri, training.store)
    run = training_run(client, experiment_id, training.key, f"{recipe.name} {training.key[:8]}")
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    log_facts(client, run, facts_of(recipe, training.encoded))
    return _OpenRun(client, training, run)
