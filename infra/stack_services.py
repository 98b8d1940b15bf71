"""What the local stack consists of: each service's command, environment and sign of being ready."""

from __future__ import annotations

import json
import os
import pwd
import shutil
from pathlib import Path

from stack_processes import Service, request
from stack_settings import BIN, BUCKET, HOST, POOL, S3_PORTS, STATE, Settings, fail, is_listening


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
