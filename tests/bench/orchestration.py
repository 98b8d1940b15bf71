"""What Prefect adds to a run whose stages are all done: the flow beside the same stages in plain Python.

``python -m tests.bench.orchestration [--store URI] [--set section.field=value]...``: makes the chain's outputs in the
store where they are missing, then measures, each in a process of its own: plain Python, the flow with its own ephemeral
server, and the flow against a server that already runs. Prints one JSON document; exit code 1 above a bound.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

BOUND_WITH_SERVER_START_S = 45.0
BOUND_WITH_SERVER_S = 10.0
TINY = (
    "curation.sources=[{type: shapes, num_scenes: 24, captions_per_scene: 2, seed: 1}]",
    "train.num_steps=2",
    "evaluate.images_per_prompt=1",
    "evaluate.num_inference_steps=1",
    "evaluate.num_bootstrap=100",
    "register.name=bench",
)
PLAIN = ("-m", "softalign", "run", "shapes", "--plain", "--json")
FLOW = ("-m", "flows.retrain", "shapes", "--json")


def timed(command, environment):
    """Run a command of this interpreter and return its seconds and its JSON output."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return seconds, json.loads(done.stdout)


def best_of(num_rounds, command, environment):
    """Return the shortest of several times: the machine's other work only ever adds."""
    times = []
    for _ in range(num_rounds):
        seconds, result = timed(command, environment)
        if result["num_stages_run"]:
            sys.exit("the bench measures a rerun, but stages ran")
        times.append(round(seconds, 2))
    return min(times)


def run_server(environment, port):
    """Start a Prefect server and return its process once it answers."""
    import httpx

    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).status_code == 200:
                return server
        except httpx.HTTPError:
            time.sleep(1)
    server.terminate()
    sys.exit("the Prefect server did not start within 300 s")


def free_port():
    """Return a port nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="softalign-bench-") as private:
        store = options.store or f"{private}/store"
        overrides = [part for override in (*TINY, *options.overrides) for part in ("--set", override)]
        arguments = ("--store", store, *overrides)
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment.update(PREFECT_HOME=f"{private}/prefect", DO_NOT_TRACK="1", PREFECT_LOGGING_LEVEL="WARNING")
        timed((*PLAIN, *arguments), environment)
        plain_s = best_of(options.rounds, (*PLAIN, *arguments), environment)
        first_s, _ = timed((*FLOW, *arguments), environment)
        ephemeral_s = best_of(options.rounds, (*FLOW, *arguments), environment)
        port = free_port()
        server = run_server({**environment, "PREFECT_HOME": f"{private}/server"}, port)
        try:
            served = {**environment, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
            served_s = best_of(options.rounds, (*FLOW, *arguments), served)
        finally:
            server.terminate()
            server.wait()
    rows = {
        "plain_s": plain_s,
        "flow_new_ephemeral_server_s": round(first_s, 2),
        "flow_ephemeral_server_s": ephemeral_s,
        "flow_running_server_s": served_s,
        "added_with_first_server_start_s": round(first_s - plain_s, 2),
        "added_with_server_start_s": round(ephemeral_s - plain_s, 2),
        "added_s": round(served_s - plain_s, 2),
        "num_cores": os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(rows, indent=2))
    is_within = rows["added_with_first_server_start_s"] <= BOUND_WITH_SERVER_START_S
    return 0 if is_within and rows["added_s"] <= BOUND_WITH_SERVER_S else 1


if __name__ == "__main__":
    sys.exit(main())
