"""Workers that start together and each pull one version into a cold cache and the same target, round after round.

    python -m tests.racing_pulls WORKERS ROUNDS

The target stays from round to round and the version changes, so that from the second round on it is updated, and in
every third it is damaged before. Ends with 1 if any worker failed or found other files than the version's.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fake_registry import FakeRegistry, make_server, write_adapter

NAME = "raced"
SIZE = 2_000
"""Rows of 16 numbers: files of 128 kB take more than one read."""


def work(gate, out, uri, number, target, cache):
    os.environ.update(SOFTALIGN_CACHE=cache, MLFLOW_TRACKING_URI=uri)
    from softalign.registry import pull

    gate.wait()
    try:
        kept = pull(f"{NAME}/{number}")
        whole = pull(f"{NAME}/{number}", target)
        out.put((len(list(kept.rglob("*.safetensors"))), len(list(whole.rglob("*.safetensors")))))
    except BaseException as error:
        out.put(f"{type(error).__name__}: {error}"[:500].replace(cache, "CACHE"))
        raise


def one_round(number, uri, workers, target, context):
    cache = tempfile.mkdtemp(prefix="racing-")
    gate, out = context.Barrier(workers), context.Queue()
    words = (gate, out, uri, number, target, cache)
    processes = [context.Process(target=work, args=words) for _ in range(workers)]
    for process in processes:
        process.start()
    results = [out.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    shutil.rmtree(cache)
    return results


def main(workers, rounds):
    """Return how often each outcome was seen."""
    import mlflow.artifacts  # noqa: F401  # before the fork: each worker's import would be most of the time

    import softalign.registry.pulling  # noqa: F401
    from softalign.registry.pulled_cache import is_intact
    from softalign.store.files import list_files

    context, place = multiprocessing.get_context("fork"), Path(tempfile.mkdtemp(prefix="racing-"))
    folders = [write_adapter(place / f"v{number}", float(number), SIZE) for number in (1, 2)]
    server = make_server(FakeRegistry(NAME, folders))
    serving = context.Process(target=server.serve_forever, daemon=True)
    serving.start()
    seen, target = Counter(), place / "out" / "adapter"
    try:
        for index in range(rounds):
            number = index % 2 + 1
            if index % 3 == 2:
                os.truncate(target / "soft_tokens.safetensors", 1000)
            seen.update(one_round(number, f"http://127.0.0.1:{server.server_port}", workers, str(target), context))
            seen["the target holds another thing"] += not is_intact(target, list_files(folders[number - 1]))
            seen["something is left beside it"] += len(list(target.parent.iterdir())) - 1
    finally:
        serving.terminate()
        shutil.rmtree(place)
    return +seen


if __name__ == "__main__":
    found = main(int(sys.argv[1]), int(sys.argv[2]))
    print(dict(found))
    sys.exit(set(found) != {(2, 2)})
