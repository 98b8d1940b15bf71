"""Several processes train through the command line: of one machine, of torchrun, and of two machines on loopback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
SETTINGS = [part for override in (*TINY, "train.batch_size=4") for part in ("--set", override)]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.slow


def arguments(store, *more):
    overrides = [part for override in more for part in ("--set", override)]
    return ["-m", "softalign", "train", "shapes", "--json", "--store", str(store), *SETTINGS, *overrides]


def start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def adapter_of(process):
    out, log = process.communicate(timeout=900)
    assert process.returncode == 0, log
    decoder = json.JSONDecoder()
    return decoder.raw_decode(out[out.index("{") :])[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the encoded set: processes of a group start from the same one."""
    path = tmp_path_factory.mktemp("several") / "store"
    command = [part.replace("train", "encode") if part == "train" else part for part in arguments(path)]
    adapter_of(start([*command, "--through"]))
    return path


def losses(adapter):
    lines = (Path(adapter["uri"]) / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["split"] == "train"]


@pytest.fixture(scope="module")
def alone(store):
    return losses(adapter_of(start(arguments(store))))


def test_two_processes_of_one_machine(store, alone):
    adapter = adapter_of(start(arguments(store, "name=two", "runtime.num_processes=2")))
    assert adapter["num_steps"] == 3
    assert losses(adapter) == pytest.approx(alone, rel=1e-3)


def test_two_processes_of_torchrun(store, alone):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    adapter = adapter_of(start([*launcher, *arguments(store, "name=torchrun")]))
    assert losses(adapter) == pytest.approx(alone, rel=1e-3)


def test_two_machines_on_loopback(store, alone):
    settings = ("name=machines", "runtime.num_nodes=2", f"runtime.rendezvous_endpoint=127.0.0.1:{free_port()}")
    agents = [start(arguments(store, *settings), NODE_RANK=str(rank)) for rank in range(2)]
    first, second = map(adapter_of, agents)
    assert first["uri"] == second["uri"]
    assert losses(first) == pytest.approx(alone, rel=1e-3)


def test_machines_with_different_recipes_refuse_to_train_together(store):
    settings = ("name=unlike", "runtime.num_nodes=2", f"runtime.rendezvous_endpoint=127.0.0.1:{free_port()}")
    agents = [start(arguments(store, *settings, f"train.seed={rank}"), NODE_RANK=str(rank)) for rank in range(2)]
    for agent in agents:
        _, log = agent.communicate(timeout=900)
        assert agent.returncode == 2, log
        assert "different" in log
