"""Where the local stack's state lies, and its ports and secrets: made on the first start, kept after."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("SOFTALIGN_STACK") or ROOT / ".stack").absolute()
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
USER = "softalign"
BUCKET = "softalign"
POOL = "softalign"
FIXED_PORTS = ("postgres", "mlflow", "prefect")
"""Kept between starts, so that profiles and recorded addresses stay valid."""
S3_PORTS = ("s3", "master", "volume", "filer")
"""Chosen anew for every start: seaweedfs leaves sockets named by port behind."""
GRPC_OFFSET = 10_000
"""seaweedfs listens at every port + 10000 too."""


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


def is_listening(port: int) -> bool:
    """Return whether something accepts connections at a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fail(text: str) -> NoReturn:
    """End with one clear message."""
    sys.stderr.write(f"local stack: {text}\n")
    sys.exit(1)
