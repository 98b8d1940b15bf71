"""A cold pull of 4 MB from an MLflow server beside what it cannot do without: curl and the start of MLflow's client.

``python -m tests.bench.pull [--rounds N]``: starts a server of its own with one version, then measures side by side,
each in processes of its own: curl of every file, the start of Python with MLflow's client, ``softalign pull`` into a
cold cache and the same into a warm one, and ``import softalign``. Prints one JSON document; exit code 1 above a bound.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from softalign.store.files import list_files
from tests.fake_registry import FakeRegistry, write_adapter

BOUND = 1.5
BOUND_IMPORT_S = 0.3
NAME = "bench"
ROWS = 32_768
"""Of 16 float32 numbers: two files of 2 MB."""
CLIENT = (
    "import softalign.cli.app, softalign.cli.registry, softalign.registry.pulling\n"
    "from mlflow import MlflowClient\n"
    "from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository\n"
    "MlflowClient(tracking_uri={uri!r}, registry_uri={uri!r})"
)


def run_server(folder):
    """Start an MLflow server and return its process and address once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host=127.0.0.1", f"--port={port}"]
    command += ["--workers=1", f"--backend-store-uri=sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    command += [f"--artifacts-destination={folder / 'files'}"]
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return server, f"http://127.0.0.1:{port}"
    server.terminate()
    sys.exit("the MLflow server did not start")


def publish(uri, folder):
    """Register a folder as a version and return the addresses of its files."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.create_run(client.create_experiment("bench"))
    client.log_artifacts(run.info.run_id, str(folder), "model")
    client.create_registered_model(NAME)
    files = list_files(folder)
    source = f"{run.info.artifact_uri}/model"
    tags = {"softalign.files": FakeRegistry.files_tag(files)}
    client.create_model_version(NAME, source, run_id=run.info.run_id, tags=tags)
    below = run.info.artifact_uri.removeprefix("mlflow-artifacts:/")
    return [f"{uri}/api/2.0/mlflow-artifacts/artifacts/{below}/model/{entry.path}" for entry in files]


def timed(command, environment):
    """Run a command and return its seconds."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return seconds


def one_round(uri, addresses, place):
    """Return the seconds of each command, run one after the other."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "SOFTALIGN_CACHE": str(place / "cache")}
    curl = ["curl", "--silent", "--fail", "--parallel"]
    for index, address in enumerate(addresses):
        curl += ["--output", str(place / f"curl-{index}"), address]
    pull = [sys.executable, "-m", "softalign", "pull", f"{NAME}/1", "--to"]
    return {
        "curl_s": timed(curl, environment),
        "client_start_s": timed([sys.executable, "-c", CLIENT.format(uri=uri)], environment),
        "cold_pull_s": timed([*pull, str(place / "cold")], environment),
        "warm_pull_s": timed([*pull, str(place / "warm")], environment),
        "python_start_s": timed([sys.executable, "-c", "pass"], environment),
        "python_and_import_s": timed([sys.executable, "-c", "import softalign"], environment),
    }


def main():
    """Measure, print, and fail above a bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        server, uri = run_server(folder)
        try:
            addresses = publish(uri, write_adapter(folder / "version", 1.0, ROWS))
            for index in range(parser.parse_args().rounds):
                (folder / str(index)).mkdir()
                rounds.append(one_round(uri, addresses, folder / str(index)))
        finally:
            server.terminate()
            server.wait(30)
    best = {name: round(min(one[name] for one in rounds), 3) for name in rounds[0]}
    ratio = best["cold_pull_s"] / (best["curl_s"] + best["client_start_s"])
    import_s = best["python_and_import_s"] - best["python_start_s"]
    print(json.dumps({**best, "import_softalign_s": round(import_s, 3), "ratio": round(ratio, 2), "bound": BOUND}))
    return int(ratio > BOUND or import_s > BOUND_IMPORT_S)


if __name__ == "__main__":
    sys.exit(main())
