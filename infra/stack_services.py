"""What the local stack consists of: each service's command, environment and sign of being ready."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from stack_processes import Service, request, running
from stack_settings import BIN, BUCKET, GRPC_OFFSET, HOST, POOLS, S3_PORTS, STATE, USER, Settings, fail, is_listening

WORKER_STOP_TIMEOUT_S = 170.0
"""Above what a worker gives its flows for a checkpoint (120 s) and itself for word to the server (30 s)."""


def services(settings: Settings) -> dict[str, Service]:
    """Return the services by name, in the order they start. Secrets are in environments, never in commands."""
    workers = (worker(settings, pool, limit) for pool, limit in POOLS.items())
    made = (postgres(settings), s3(settings), mlflow(settings), prefect(settings), *workers)
    return {service.name: service for service in made}


def postgres(settings: Settings) -> Service:
    """Return the database server; SIGINT is its fast shutdown, SIGTERM would wait for its clients."""
    port = settings.ports["postgres"]
    return Service(
        "postgres",
        [postgres_binary("postgres"), "-D", str(STATE / "postgres"), "-p", str(port), "-h", HOST, "-k", ""],
        env={},
        is_ready=lambda: is_database_open(settings),
        ports=(port,),
        user=database_user(),
        stop_signal=signal.SIGINT,
    )


def s3(settings: Settings) -> Service:
    """Return the object storage: seaweedfs with one bucket and one pair of keys."""
    ports = [settings.ports[name] for name in S3_PORTS]
    listening = [f"-{name}.port={settings.ports[name]}" for name in S3_PORTS]
    return Service(
        "s3",
        [str(BIN / "weed"), "-logtostderr=true", "mini", f"-dir={STATE / 's3'}", f"-ip={HOST}", f"-ip.bind={HOST}",
         f"-bucket={BUCKET}", *listening, "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
         "-master.telemetry=false"],
        env=settings.s3_client(),
        is_ready=lambda: bucket_exists(settings),
        ports=(*ports, *(port + GRPC_OFFSET for port in ports)),
    )  # fmt: skip


def mlflow(settings: Settings) -> Service:
    """Return the registry: it keeps files in the bucket and hands them out itself, so clients need no keys."""
    port = settings.ports["mlflow"]
    return Service(
        "mlflow",
        [str(BIN / "mlflow"), "server", "--host", HOST, "--port", str(port), "--workers", "1", "--serve-artifacts",
         "--artifacts-destination", f"s3://{BUCKET}/mlflow"],
        env={
            **settings.s3_client(),
            "MLFLOW_S3_ENDPOINT_URL": settings.url("s3"),
            "MLFLOW_BACKEND_STORE_URI": settings.database("mlflow", "psycopg2"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        is_ready=lambda: request(port, "GET", "/health") is not None,
        ports=(port,),
    )  # fmt: skip


def prefect(settings: Settings) -> Service:
    """Return the orchestration server; its page in the browser must be told where the API is."""
    port = settings.ports["prefect"]
    return Service(
        "prefect",
        [str(BIN / "prefect"), "server", "start", "--host", HOST, "--port", str(port)],
        env={
            "PREFECT_API_DATABASE_CONNECTION_URL": settings.database("prefect", "asyncpg"),
            "PREFECT_UI_API_URL": settings.url("prefect", "/api"),
            "PREFECT_UI_URL": settings.url("prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_METRICS_ENABLED": "true",
            "PREFECT_HOME": str(STATE / "prefect"),
        },
        is_ready=lambda: request(port, "GET", "/api/health") is not None,
        ports=(port,),
    )


def worker(settings: Settings, pool: str, limit: int) -> Service:
    """Return what runs the flows of a work pool; it makes the pool if there is none."""
    return Service(
        f"worker-{pool}",
        # its own limit; a deployment's limit is a lease, and ends its run where the server was away for long
        [
            sys.executable,
            *f"-m flows.worker --pool {pool} --name local-{pool} --limit {limit} --look-every-s 20".split(),
        ],
        env={
            **settings.exports(),
            "PREFECT_HOME": str(STATE / "prefect"),
            "SOFTALIGN_CACHE": str(STATE / "cache"),
        },
        is_ready=lambda: worker_is_online(settings, pool),
        stop_timeout_s=WORKER_STOP_TIMEOUT_S,
    )


def watch() -> Service:
    """Return what starts services again that have died."""
    return Service(
        "watch",
        [sys.executable, str(Path(__file__).with_name("stack_watch.py"))],
        env={"SOFTALIGN_STACK": str(STATE)},
        is_ready=lambda: running("watch") is not None,
    )


def postgres_binary(name: str) -> str:
    """Return the path of one of Postgres' programs (Debian keeps them out of PATH)."""
    found = shutil.which(name) or next(map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))[::-1]), None)
    if found is None:
        fail(f"Postgres' `{name}` was not found; install it (Debian: apt-get install postgresql), or use compose.yaml")
    return str(found)


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


def is_database_open(settings: Settings) -> bool:
    """Return whether the database server lets us in: it listens some time before it does."""
    import psycopg2

    try:
        connect(settings).close()
    except psycopg2.OperationalError:
        return False
    return True


def connect(settings: Settings) -> Any:
    """Return a connection to the database server."""
    import psycopg2

    return psycopg2.connect(
        host=HOST, port=settings.ports["postgres"], user=USER, password=settings.password, dbname="postgres"
    )


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


def worker_is_online(settings: Settings, pool: str) -> bool:
    """Return whether the server has heard from a pool's worker lately."""
    answer = request(settings.ports["prefect"], "POST", f"/api/work_pools/{pool}/workers/filter", "{}")
    return answer is not None and any(worker["status"] == "ONLINE" for worker in json.loads(answer))
