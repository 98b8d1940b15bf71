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
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
STATE = Path(os.environ.get("SOFTALIGN_STACK") or ROOT / ".stack").absolute()
SETTINGS_PATH = STATE / "settings.json"
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
USER = "softalign"
BUCKET = "softalign"
POOLS = {"cpu": 4, "gpu": 1}
"""Work pools, and how many runs the worker of each takes at a time."""
S3_PORTS = ("s3", "master", "volume", "filer", "admin")
PORTS = ("postgres", "mlflow", "prefect", *S3_PORTS)
GRPC_OFFSET = 10_000
"""seaweedfs listens at every port + 10000 too."""
LOWEST_PORT, HIGHEST_PORT = 15_000, 22_700
"""Both a port and its gRPC neighbour lie below 32768, where Linux takes the ports of outgoing connections from."""


@dataclass(frozen=True)
class Settings:
    """Ports and secrets of this stack."""

    ports: dict[str, int]
    password: str
    access_key: str
    secret_key: str

    def database(self, name: str, driver: str) -> str:
        """Return a SQLAlchemy URL; the driver is named because a bare ``postgresql://`` means psycopg 3 there."""
        return f"postgresql+{driver}://{USER}:{quote(self.password, safe='')}@{HOST}:{self.ports['postgres']}/{name}"

    def url(self, name: str, path: str = "") -> str:
        """Return a service's HTTP address."""
        return f"http://{HOST}:{self.ports[name]}{path}"

    def s3_client(self) -> dict[str, str]:
        """Return the variables that point S3 clients to this stack."""
        return {
            "AWS_ENDPOINT_URL": self.url("s3"),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def exports(self) -> dict[str, str]:
        """Return the variables that point softalign, Prefect, MLflow and S3 clients to this stack."""
        return {
            "PREFECT_API_URL": self.url("prefect", "/api"),
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "SOFTALIGN_STORE": f"s3://{BUCKET}/store",
            "SOFTALIGN_HOME": str(ROOT),
            **self.s3_client(),
        }


def read_settings() -> Settings:
    """Return the settings of a stack that was started before."""
    if not SETTINGS_PATH.is_file():
        fail(f"nothing was started in {STATE}; run `make stack` (or `{Path(sys.argv[0]).name} up`) first")
    return Settings(**json.loads(SETTINGS_PATH.read_text(encoding="utf-8")))


def make_settings() -> Settings:
    """Return the stack's settings; on the first start choose ports and secrets and write them down (0600)."""
    for name in ("logs", "s3", "prefect"):
        (STATE / name).mkdir(parents=True, exist_ok=True)
    stored = asdict(read_settings()) if SETTINGS_PATH.is_file() else {}
    ports = dict(stored.get("ports", {}))
    for name in PORTS:
        if name not in ports:
            ports[name] = free_port({*ports.values()})
    made = {"password": secrets.token_hex(16), "access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
    settings = Settings(**{**made, **stored, "ports": ports})
    if asdict(settings) != stored:
        descriptor = os.open(SETTINGS_PATH, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(settings), file, indent=1)
    return settings


def free_port(taken: set[int]) -> int:
    """Return a port that is free together with its gRPC neighbour."""
    for _ in range(200):
        port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT)
        if port not in taken and not is_listening(port) and not is_listening(port + GRPC_OFFSET):
            return port
    fail(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT} after 200 tries")


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
