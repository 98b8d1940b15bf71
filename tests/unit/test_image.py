"""The container image, without an engine: docker's own rules for the build context, and what the roles need."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
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
        for source in argument.split()[:-1] if name == "COPY" else ():
            assert [file for file in found if file == source or file.startswith(f"{source}/")], source
    assert {"softalign/recipes/shapes.yaml", "infra/prefect.yaml"} <= found


def test_the_servers_find_their_drivers(instructions):
    installed = " ".join(argument for name, argument in instructions if name == "RUN")
    for package in ("boto3", "psycopg2-binary", ".[pipeline]"):
        assert package in installed


def test_no_role_runs_as_root_and_each_can_write_where_it_must(instructions, compose):
    names = [name for name, _ in instructions]
    by_user = instructions[names.index("USER") + 1 :]
    made = {part for name, argument in by_user if name == "RUN" for part in shlex.split(argument) if part[0] == "/"}
    variables = dict(
        part.split("=", 1) for name, argument in instructions if name == "ENV" for part in argument.split()
    )
    assert instructions[names.index("USER")][1] != "root" and names.count("USER") == 1
    own = [service for service in compose["services"].values() if service["image"] == "softalign"]
    assert len(own) == 4
    # a named volume takes the owner of the folder that it is mounted over; one made by the engine is root's
    assert {volume.split(":")[1] for service in own for volume in service.get("volumes", ())} <= made
    # Prefect copies its pages there at the start; its own package's folder is root's
    assert variables["PREFECT_UI_STATIC_DIRECTORY"] in made


def test_no_secret_stands_in_a_command(compose):
    for name, service in compose["services"].items():
        assert not [secret for secret in SECRETS if secret in str(service.get("command", ""))], name


def test_compose_is_valid_and_refuses_to_start_without_secrets(tmp_path):
    (tmp_path / "env").write_text("".join(f"{name}=x\n" for name in SECRETS))
    command = [str(BIN / "docker-compose"), "-f", str(ROOT / "infra/compose.yaml"), "--env-file"]
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    good = subprocess.run([*command, str(tmp_path / "env"), "config", "-q"], env=clean, check=False)
    bad = subprocess.run(
        [*command, "/dev/null", "config", "-q"], env=clean, check=False, capture_output=True, text=True
    )
    assert good.returncode == 0
    assert bad.returncode != 0 and "infra/.env" in bad.stderr
