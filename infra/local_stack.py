"""A real deployment on this machine, without containers: Postgres, S3, MLflow, Prefect and workers, on loopback.

    python infra/local_stack.py up        starts what is not running, makes databases, bucket, work pool, deployments
    python infra/local_stack.py env       what to export to use it: eval "$(python infra/local_stack.py env)"
    python infra/local_stack.py status    what runs (exit code 1 if something does not)
    python infra/local_stack.py down      stops it, by the process ids it wrote down; data stay

State lies in ``.stack/`` of this repository (or ``SOFTALIGN_STACK``): data, logs, ports, generated passwords (0600).
Needs ``pip install -e '.[pipeline,stack]'`` and Postgres' ``initdb`` and ``postgres`` (Debian: postgresql).
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from stack_processes import inherited, running, start, stop, wait
from stack_services import connect, database_user, postgres_binary, services, watch
from stack_settings import (
    BIN,
    GRPC_OFFSET,
    POOLS,
    ROOT,
    S3_PORTS,
    STATE,
    USER,
    Settings,
    fail,
    make_settings,
    read_settings,
    say,
)

DATABASES = ("prefect", "mlflow")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("up", "env", "status", "down"))
    {"up": up, "env": env, "status": status, "down": down}[parser.parse_args().command]()


def up() -> None:
    """Start what is not running, and prepare databases, bucket, work pool and deployments."""
    settings = make_settings()
    known = services(settings)
    stop([watch()])  # it would start the same
    start(known["s3"])
    init_postgres(settings)
    start(known["postgres"])
    wait(known["postgres"])
    create_databases(settings)
    start(known["prefect"])
    start(known["mlflow"])
    wait(known["s3"])
    wait(known["prefect"])
    for pool in POOLS:
        start(known[f"worker-{pool}"])  # it makes the work pool that deployments need
    for pool in POOLS:
        wait(known[f"worker-{pool}"])
    deploy(settings)
    wait(known["mlflow"])
    start(watch())
    say(f"Prefect   {settings.url('prefect')}\nMLflow    {settings.url('mlflow')}\nS3        {settings.url('s3')}")
    elsewhere = "" if STATE == ROOT / ".stack" else f"SOFTALIGN_STACK={shlex.quote(str(STATE))} "
    say(f'logs      {STATE / "logs"}\nuse it    eval "$({elsewhere}{sys.executable} {Path(__file__).resolve()} env)"')
    say("then      prefect deployment run softalign-retrain/retrain --watch")


def env() -> None:
    """Print the variables to export."""
    for name, value in read_settings().exports().items():
        say(f"export {name}={shlex.quote(value)}")


def status() -> None:
    """Print what runs and answers, and where; exit code 1 if something does not."""
    settings, is_all_ready = read_settings(), True
    for service in (*services(settings).values(), watch()):
        process = running(service.name)
        state = "down" if process is None else "ready" if service.is_ready() else "starting or stuck"
        is_all_ready &= state == "ready"
        where = settings.url(service.name) if service.name in {"prefect", "mlflow", "s3"} else ""
        say(f"{service.name:<12}{state:<18}{f'pid {process.pid}' if process else '':<13}{where}".rstrip())
    sys.exit(0 if is_all_ready else 1)


def down() -> None:
    """Stop everything this stack started, last started first; data stay."""
    settings = read_settings()
    known = services(settings)
    stop([watch()])
    stop([known[f"worker-{pool}"] for pool in POOLS])  # they queue what was under way
    stop([known[name] for name in ("prefect", "mlflow", "s3")])
    stop([known["postgres"]])
    for port in (settings.ports[name] for name in S3_PORTS):  # seaweedfs leaves sockets behind
        for path in Path(tempfile.gettempdir()).glob("seaweedfs-*.sock"):
            if path.stem.endswith((f"-{port}", f"-{port + GRPC_OFFSET}")):
                path.unlink(missing_ok=True)


def init_postgres(settings: Settings) -> None:
    """Make the database cluster on the first start."""
    folder, user = STATE / "postgres", database_user()
    if (folder / "PG_VERSION").is_file():
        await_the_end_of(folder / "postmaster.pid")
        return
    folder.mkdir(parents=True, exist_ok=True)
    password_path = folder.with_name("postgres.password")
    password_path.write_text(settings.password, encoding="utf-8")
    password_path.chmod(0o600)
    if user:
        shutil.chown(folder, user)
        shutil.chown(password_path, user)
    command = [postgres_binary("initdb"), "-D", str(folder), "-U", USER, "--pwfile", str(password_path), "-A",
               "scram-sha-256", "-E", "UTF8", "--locale=C"]  # fmt: skip
    result = subprocess.run(  # noqa: S603
        command, user=user, cwd="/", capture_output=True, text=True, check=False
    )
    password_path.unlink()
    if result.returncode:
        fail(f"initdb failed (must {user or 'you'} be able to reach {folder}?): {result.stderr.strip()[-500:]}")


def await_the_end_of(lock: Path) -> None:
    """Wait some seconds for a server that was killed a moment ago to be gone: another one does not start before."""
    if running("postgres") is None and lock.is_file():
        pid = int(lock.read_text(encoding="utf-8").split()[0])
        for _ in range(40):
            if not psutil.pid_exists(pid):
                return
            time.sleep(0.25)


def create_databases(settings: Settings) -> None:
    """Make the databases that do not exist yet."""
    connection = connect(settings)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        present = {row[0] for row in cursor.fetchall()}
        for name in DATABASES:
            if name not in present:
                cursor.execute(f"CREATE DATABASE {name}")
    connection.close()


def deploy(settings: Settings) -> None:
    """Make or renew the deployments of ``prefect.yaml``."""
    command = [str(BIN / "prefect"), "--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml"]
    environment = {**inherited(), **settings.exports(), "PREFECT_HOME": str(STATE / "prefect")}
    result = subprocess.run(  # noqa: S603
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        fail(f"`{' '.join(command[1:])}` failed: {(result.stderr or result.stdout).strip()[-800:]}")
    say("flows deployed")


if __name__ == "__main__":
    main()
