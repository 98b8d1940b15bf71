"""The container image, without an engine: docker's own rules for the build context, and what the roles need."""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SECRETS = (
    *("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
    *("PREFECT_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY"),
)
ODD = "p@ss/w:rd #%41"
"""A password that breaks a URL, a shell and an ini file where it is put in as it is."""
SERVERS = ("prefect-server", "mlflow-server")
WORKERS = ("worker-cpu", "worker-gpu")
PRIVATE = (
    *("infra/.env", "infra/prod.env", ".env", "softalign/.env", "flows/.env.local", ".stack/settings.json"),
    *(".git/config", ".venv/pyvenv.cfg", "softalign-store/train/key/adapter.json", "mlflow.db", "notes.txt"),
    *("softalign/__pycache__/cli.cpython-311.pyc", "tests/unit/test_image.py", "infra/stack.log"),
)


@pytest.fixture(scope="module")
def instructions():
    """The Dockerfile's (instruction, argument) pairs."""
    lines = (ROOT / "infra/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "infra/compose.yaml").read_text())


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """The files of the build context of a checkout that is in use: all that is versioned, and what lies about."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    tree = tmp_path_factory.mktemp("checkout")
    for name in {*listed.stdout.splitlines(), *PRIVATE}:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    patterns = (ROOT / ".dockerignore").read_text().split()
    found = exclude_paths(str(tree), patterns, dockerfile="infra/Dockerfile")
    return {name for name in found if (tree / name).is_file()} - {".dockerignore"}, set(listed.stdout.splitlines())


def test_the_context_holds_only_versioned_files_of_the_packages(context):
    found, versioned = context
    assert found & set(PRIVATE) == set()
    assert found <= versioned
    assert {name.split("/")[0] for name in found} == {
        *("softalign", "tasks", "flows", "infra"),
        *("pyproject.toml", "README.md", "LICENSE"),
    }


def test_all_that_is_copied_is_in_the_context(context, instructions):
    found, _ = context
    for name, argument in instructions:
        for source in argument.split()[:-1] if name == "COPY" and "--from=" not in argument else ():
            assert [file for file in found if file == source or file.startswith(f"{source}/")], source
    assert {"softalign/recipes/shapes.yaml", "infra/prefect.yaml"} <= found


def targets(instructions):
    """What each target of the Dockerfile runs and holds, that of its parents included."""
    found, name = {}, None
    for word, argument in instructions:
        if word == "FROM":
            parent, _, name = argument.partition(" AS ")
            found[name] = list(found.get(parent, ()))
        elif name:
            found[name].append((word, argument))
    return found


def installs(stages, target):
    """All that is installed into the environment which a target copies, as one text."""
    copied = next(a.split()[0] for w, a in stages[target] if w == "COPY" and a.startswith("--from="))
    return " ".join(a for w, a in stages[copied.removeprefix("--from=")] if w == "RUN")


def test_a_server_carries_its_drivers_and_no_torch(instructions):
    stages = targets(instructions)
    for server in SERVERS:
        assert "torch" not in installs(stages, server) and ".[" not in installs(stages, server)
    for package in ("mlflow[auth]", "boto3", "psycopg2-binary", "prometheus-flask-exporter"):
        assert package in installs(stages, "mlflow-server")
    for package in ("prefect", "asyncpg", "fastapi"):
        assert package in installs(stages, "prefect-server")


def test_torch_comes_from_an_index_beside_pypi(instructions):
    stages = targets(instructions)
    for worker in WORKERS:
        commands = installs(stages, worker)
        assert "--extra-index-url" in commands and " --index-url" not in commands
        assert "-c infra/constraints.txt" in commands and ".[pipeline]" in commands
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in map(tuple, stages["build-worker-cpu"])


def test_no_role_runs_as_root_and_each_can_write_where_it_must(instructions, compose):
    stages = targets(instructions)
    for target in (*SERVERS, *WORKERS):
        words = [word for word, _ in stages[target]]
        assert [a for w, a in stages[target] if w == "USER"] == ["10001"], target
        by_user = stages[target][words.index("USER") :]
        made = {part for w, a in by_user if w == "RUN" for part in shlex.split(a) if part[0] == "/"}
        # a named volume takes the owner of the folder that it is mounted over; one made by the engine is root's
        for service in compose["services"].values():
            if service["image"].startswith(f"softalign-{target}:"):
                assert {volume.split(":")[1] for volume in service.get("volumes", ())} <= made
        for variable in (a for w, a in stages[target] if w == "ENV" and "UI_STATIC" in a):
            assert variable.split("=", 1)[1] in made


def test_every_service_has_an_exact_tag_a_health_check_limits_and_rotated_logs(compose):
    for name, service in compose["services"].items():
        assert re.search(r":[^:]*\d+\.\d+", service["image"]), name
        assert "healthcheck" in service and service["mem_limit"] and service["stop_grace_period"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"] == ("no" if name == "deploy" else "unless-stopped"), name
    for line in (ROOT / "infra/Dockerfile").read_text().splitlines():
        if line.startswith("ARG PYTHON_IMAGE="):
            assert re.search(r":\d+\.\d+\.\d+-|@sha256:", line)


def test_postgres_is_well_only_when_its_last_database_answers_over_tcp(compose):
    check = compose["services"]["postgres"]["healthcheck"]["test"][1]
    last = re.findall(r"DATABASE (\w+)", compose["configs"]["databases"]["content"])[-1]
    assert "-h 127.0.0.1" in check and f"-d {last} " in check and "SELECT 1" in check


def test_no_secret_stands_in_a_command_or_a_url(compose):
    for name, service in compose["services"].items():
        assert not [secret for secret in SECRETS if secret in str(service.get("command", ""))], name
        urls = [value for value in service.get("environment", {}).values() if "://" in str(value)]
        assert not [url for url in urls if "PASSWORD" in url or "KEY" in url], name
    ini = configparser.ConfigParser()
    ini.read(ROOT / "infra/mlflow-auth.ini")
    assert ":" not in ini["mlflow"]["database_uri"].split("//")[1].split("@")[0]
    assert "admin_password" not in ini["mlflow"]


def composed(file, *profiles):
    """Return what Compose makes of the file with these settings, or the error's text."""
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [str(BIN / "docker-compose"), "-f", str(ROOT / "infra/compose.yaml"), "--env-file", str(file), *chosen]
    done = subprocess.run(
        [*command, "config", "--format", "json"], env=clean, check=False, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_compose_keeps_odd_passwords_and_asks_for_them_everywhere(tmp_path):
    (tmp_path / "env").write_text("".join(f"{name}='{ODD}'\n" for name in SECRETS))
    services = composed(tmp_path / "env", "gpu")["services"]
    environment = {name: service.get("environment", {}) for name, service in services.items()}
    assert environment["prefect"]["PREFECT_SERVER_API_AUTH_STRING"] == f"softalign:{ODD}"
    assert environment["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"] == environment["mlflow"]["PGPASSWORD"] == ODD
    assert "--app-name=basic-auth" in services["mlflow"]["command"]
    for name in ("deploy", *WORKERS):
        assert environment[name]["PREFECT_API_AUTH_STRING"] == f"softalign:{ODD}"
        assert environment[name]["MLFLOW_TRACKING_PASSWORD"] == ODD
    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert [(device["driver"], device["capabilities"]) for device in devices] == [("nvidia", ["gpu"])]
    assert "worker-gpu" not in composed(tmp_path / "env")["services"]
    published = [port["host_ip"] for service in services.values() for port in service.get("ports", ())]
    assert set(published) == {"127.0.0.1"}


def test_each_secret_is_required_and_stands_in_the_example(tmp_path):
    example = (ROOT / "infra/env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "infra/compose.yaml").read_text()))
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == used
    for missing in SECRETS:
        (tmp_path / "env").write_text("".join(f"{name}=x\n" for name in SECRETS if name != missing))
        assert missing in composed(tmp_path / "env")
    assert "infra/.env" in composed("/dev/null")
