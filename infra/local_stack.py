"""A real deployment on this machine, without containers: Postgres, S3, MLflow, Prefect and a worker, on loopback.

    python infra/local_stack.py up        starts what is not running, makes databases, bucket, work pool, deployments
    python infra/local_stack.py env       what to export to use it: eval "$(python infra/local_stack.py env)"
    python infra/local_stack.py status    what runs (exit code 1 if something does not)
    python infra/local_stack.py down      stops it, by the process ids it wrote down; data stay

State lies in ``.stack/`` of this repository (or ``SOFTALIGN_STACK``): data, logs, ports, generated passwords (0600).
Needs ``pip install -e '.[pipeline,stack]'`` and Postgres' ``initdb`` and ``postgres`` (Debian: postgresql).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import psutil

ROOT = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("SOFTALIGN_STACK") or ROOT / ".stack").absolute()
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
USER = "softalign"
BUCKET = "softalign"
POOL = "softalign"
DATABASES = ("prefect", "mlflow")
FIXED_PORTS = ("postgres", "mlflow", "prefect")
"""Kept between starts, so that profiles and recorded addresses stay valid."""
S3_PORTS = ("s3", "master", "volume", "filer")
"""Chosen anew for every start: seaweedfs leaves sockets named by port behind."""
GRPC_OFFSET = 10_000
"""seaweedfs listens at every port + 10000 too."""
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Process:
    """A started process; the start time tells it from another one that got its id later."""

    pid: int
    started_at: float


@dataclass(frozen=True)
class Settings:
    """Ports and secrets of this stack."""

    ports: dict[str, int]
    password: str
    access_key: str
    secret_key: str

    def database(self, name: str, driver: str) -> str:
        """Return a SQLAlchemy URL; the driver is named because a bare ``postgresql://`` means psycopg 3 there."""
        return f"postgresql+{driver}://{USER}:{self.password}@{HOST}:{self.ports['postgres']}/{name}"

    def url(self, name: str, path: str = "") -> str:
        """Return a service's HTTP address."""
        return f"http://{HOST}:{self.ports[name]}{path}"

    def exports(self) -> dict[str, str]:
        """Return the variables that point softalign, Prefect, MLflow and S3 clients to this stack."""
        return {
            "PREFECT_API_URL": self.url("prefect", "/api"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "SOFTALIGN_STORE": f"s3://{BUCKET}/store",
            "AWS_ENDPOINT_URL": self.url("s3"),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "SOFTALIGN_HOME": str(ROOT),
        }


@dataclass(frozen=True)
class Service:
    """How a service is started and how it says that it is ready."""

    name: str
    command: list[str]
    env: dict[str, str]
    is_ready: Callable[[], bool]
    user: str | None = None


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fail(text: str) -> NoReturn:
    """End with one clear message."""
    sys.stderr.write(f"local stack: {text}\n")
    sys.exit(1)


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("up", "env", "status", "down"))
    command = parser.parse_args().command
    if command in {"env", "status"} and not (STATE / "settings.json").is_file():
        fail(f"nothing was started in {STATE}; run `up` first")
    {"up": up, "env": env, "status": status, "down": down}[command]()


def up() -> None:
    """Start what is not running, and prepare databases, bucket, work pool and deployments."""
    settings = load_settings(is_new_start=not running("s3"))
    init_postgres(settings)
    known = {service.name: service for service in services(settings)}
    start(known["postgres"])
    wait(known["postgres"])
    create_databases(settings)
    for name in ("s3", "mlflow", "prefect"):  # side by side: each takes 10 to 100 s on a small machine
        start(known[name])
    for name in ("s3", "mlflow", "prefect"):
        wait(known[name])
    deploy(settings)
    start(known["worker"])
    wait(known["worker"])
    say(f"Prefect   {settings.url('prefect')}\nMLflow    {settings.url('mlflow')}\nS3        {settings.url('s3')}")
    say(f'logs      {STATE / "logs"}\nuse it    eval "$({sys.executable} {Path(__file__).resolve()} env)"')
    say("then      prefect deployment run softalign-retrain/retrain --watch")


def env() -> None:
    """Print the variables to export."""
    for name, value in load_settings().exports().items():
        say(f"export {name}='{value}'")


def status() -> None:
    """Print what runs and answers; exit code 1 if something does not."""
    is_all_ready = True
    for service in services(load_settings()):
        process = running(service.name)
        state = "down" if process is None else "ready" if service.is_ready() else "starting or stuck"
        is_all_ready &= state == "ready"
        say(f"{service.name:<10}{state}" + (f"  pid {process.pid}" if process else ""))
    sys.exit(0 if is_all_ready else 1)


def down() -> None:
    """Stop everything this stack started, last started first."""
    for name in ("worker", "prefect", "mlflow", "s3", "postgres"):
        process = running(name)
        if process is not None:
            # Postgres: SIGINT is its fast shutdown; SIGTERM would wait for its clients.
            stop(process, signal.SIGINT if name == "postgres" else signal.SIGTERM)
            say(f"{name} stopped")
        (STATE / f"{name}.process.json").unlink(missing_ok=True)
    if (STATE / "settings.json").is_file():  # seaweedfs leaves its socket behind
        Path(tempfile.gettempdir(), f"seaweedfs-s3-{load_settings().ports['s3']}.sock").unlink(missing_ok=True)


def services(settings: Settings) -> list[Service]:
    """Return the services in the order they start."""
    ports, exports = settings.ports, settings.exports()
    s3_keys = {name: exports[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    s3_ports = [f"-{name}.port={ports[name]}" for name in S3_PORTS]
    s3_dir = STATE / "s3"
    return [
        Service(
            "postgres",
            [postgres_binary("postgres"), "-D", str(STATE / "postgres"), "-p", str(ports["postgres"]), "-h", HOST,
             "-k", ""],
            {},
            lambda: is_listening(ports["postgres"]),
            user=database_user(),
        ),
        Service(
            "s3",
            [str(BIN / "weed"), "mini", f"-dir={s3_dir}", f"-ip={HOST}", f"-ip.bind={HOST}", *s3_ports, "-webdav=false",
             "-admin.ui=false", "-s3.port.iceberg=0", f"-bucket={BUCKET}"],
            s3_keys,
            lambda: bucket_exists(settings),
        ),
        Service(
            "mlflow",
            [str(BIN / "mlflow"), "server", "--host", HOST, "--port", str(ports["mlflow"]), "--workers", "1",
             "--backend-store-uri", settings.database("mlflow", "psycopg2"), "--serve-artifacts",
             "--artifacts-destination", f"s3://{BUCKET}/mlflow"],
            {**exports, "MLFLOW_S3_ENDPOINT_URL": exports["AWS_ENDPOINT_URL"], "MLFLOW_DISABLE_TELEMETRY": "true",
             "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            lambda: request(ports["mlflow"], "GET", "/health") is not None,
        ),
        Service(
            "prefect",
            [str(BIN / "prefect"), "server", "start", "--host", HOST, "--port", str(ports["prefect"])],
            {"PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "asyncpg"),
             "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_METRICS_ENABLED": "true",
             "PREFECT_HOME": str(STATE / "prefect")},
            lambda: request(ports["prefect"], "GET", "/api/health") is not None,
        ),
        Service(
            "worker",
            [str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--name", "local", "--type", "process"],
            {**exports, "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
             "PREFECT_HOME": str(STATE / "prefect")},
            lambda: worker_is_online(settings),
        ),
    ]  # fmt: skip


def load_settings(*, is_new_start: bool = False) -> Settings:
    """Return the stack's settings, made on the first start."""
    path = STATE / "settings.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    ports = dict(stored.get("ports", {}))
    wanted = [name for name in FIXED_PORTS if name not in ports]
    wanted += [name for name in S3_PORTS if is_new_start or name not in ports]
    for name in wanted:
        ports[name] = free_port({*ports.values(), *(port + GRPC_OFFSET for port in ports.values())})
    settings = Settings(
        ports=ports,
        password=stored.get("password") or secrets.token_hex(16),
        access_key=stored.get("access_key") or secrets.token_hex(10),
        secret_key=stored.get("secret_key") or secrets.token_hex(20),
    )
    for name in ("logs", "s3", "prefect"):
        (STATE / name).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(settings), file, indent=1)
    return settings


def free_port(taken: set[int]) -> int:
    """Return a port that is free together with its gRPC neighbour."""
    for _ in range(200):
        port = secrets.randbelow(30_000) + 15_000
        if not {port, port + GRPC_OFFSET} & taken and not is_listening(port) and not is_listening(port + GRPC_OFFSET):
            return port
    raise RuntimeError("no free port between 15000 and 45000 after 200 tries")


def database_user() -> str | None:
    """Return the account Postgres runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    fail("Postgres does not run as root, and there is no user `postgres`; install postgresql or run as another user")


def postgres_binary(name: str) -> str:
    """Return the path of one of Postgres' programs (Debian keeps them out of PATH)."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1]), None)
    if found is None:
        fail(f"Postgres' `{name}` was not found; install it (Debian: apt-get install postgresql), or use compose.yaml")
    return str(found)


def init_postgres(settings: Settings) -> None:
    """Make the database cluster on the first start."""
    folder, user = STATE / "postgres", database_user()
    if (folder / "PG_VERSION").is_file():
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


def create_databases(settings: Settings) -> None:
    """Make the databases that do not exist yet."""
    import psycopg2

    connection = psycopg2.connect(
        host=HOST, port=settings.ports["postgres"], user=USER, password=settings.password, dbname="postgres"
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        present = {row[0] for row in cursor.fetchall()}
        for name in DATABASES:
            if name not in present:
                cursor.execute(f"CREATE DATABASE {name}")
    connection.close()


def deploy(settings: Settings) -> None:
    """Make the work pool and the deployments of ``prefect.yaml``."""
    environment = {**os.environ, **settings.exports(), "PREFECT_HOME": str(STATE / "prefect")}
    prefect = str(BIN / "prefect")
    for command in (
        [prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite"],
        [prefect, "--no-prompt", "deploy", "--all", "--prefect-file", "infra/prefect.yaml"],
    ):
        result = subprocess.run(  # noqa: S603
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode:
            fail(f"`{' '.join(command[1:])}` failed: {(result.stderr or result.stdout).strip()[-800:]}")


def start(service: Service) -> None:
    """Start a service unless it runs; its output goes to its log."""
    if running(service.name) is not None:
        return
    with log_path(service).open("ab") as log:
        child = subprocess.Popen(  # noqa: S603
            service.command,
            env={**os.environ, **service.env},
            user=service.user,
            cwd="/" if service.user else ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process = Process(child.pid, psutil.Process(child.pid).create_time())
    (STATE / f"{service.name}.process.json").write_text(json.dumps(asdict(process)), encoding="utf-8")


def wait(service: Service) -> None:
    """Return when a service is ready; end with its last lines if it died or takes too long."""
    begin = time.monotonic()
    while not service.is_ready():
        is_late = time.monotonic() - begin > START_TIMEOUT_S
        if is_late or running(service.name) is None:
            lines = log_path(service).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
            what = f"was not ready after {START_TIMEOUT_S:.0f} s" if is_late else "ended"
            fail(f"{service.name} {what}; the last lines of {log_path(service)}:\n" + "\n".join(lines))
        time.sleep(0.5)
    say(f"{service.name} ready")


def log_path(service: Service) -> Path:
    """Return where a service writes."""
    return STATE / "logs" / f"{service.name}.log"


def running(name: str) -> Process | None:
    """Return a service's process if it is the one this stack started and still runs."""
    path = STATE / f"{name}.process.json"
    if not path.is_file():
        return None
    process = Process(**json.loads(path.read_text(encoding="utf-8")))
    try:
        found = psutil.Process(process.pid)
        is_ours = abs(found.create_time() - process.started_at) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_ours else None


def stop(process: Process, first_signal: signal.Signals) -> None:
    """Ask a process to end, then end what is left of it and its children."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    parent.send_signal(first_signal)
    _, left = psutil.wait_procs(family, timeout=STOP_TIMEOUT_S)
    for member in left:
        member.kill()
    psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)


def is_listening(port: int) -> bool:
    """Return whether something accepts connections at a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def request(port: int, method: str, path: str, body: str | None = None) -> bytes | None:
    """Return the body of a 200 answer from a loopback port, or None."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def bucket_exists(settings: Settings) -> bool:
    """Return whether the bucket is there and our keys open it."""
    import s3fs

    if not is_listening(settings.ports["s3"]):
        return False
    filesystem = s3fs.S3FileSystem(
        key=settings.access_key, secret=settings.secret_key, endpoint_url=settings.url("s3"), skip_instance_cache=True
    )
    try:
        return bool(filesystem.exists(BUCKET))
    except OSError:
        return False


def worker_is_online(settings: Settings) -> bool:
    """Return whether the server has heard from the worker lately."""
    answer = request(settings.ports["prefect"], "POST", f"/api/work_pools/{POOL}/workers/filter", "{}")
    return answer is not None and any(worker["status"] == "ONLINE" for worker in json.loads(answer))


if __name__ == "__main__":
    main()
