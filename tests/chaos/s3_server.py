"""An S3 server (SeaweedFS) of one's own on this machine, which is stopped and started as often as one likes."""

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HOST, BUCKET = "127.0.0.1", "chaos"
PARTS = ("s3", "master", "volume", "filer", "admin")
GRPC_OFFSET = 10_000
START_LIMIT_S = 120.0


class S3Server:
    """The server, stopped at first; what it holds outlives its processes.

    Args:
        folder: where its data and log lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        folder.mkdir(parents=True)
        self._ports = {part: port for part, port in zip(PARTS, _free_ports(len(PARTS)), strict=True)}
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self._ports['s3']}",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it does not.
        """
        listening = [f"-{part}.port={port}" for part, port in self._ports.items()]
        command = [
            *(str(Path(sys.executable).with_name("weed")), "-logtostderr=true", "mini", f"-dir={self._folder}"),
            *(f"-ip={HOST}", f"-ip.bind={HOST}", f"-bucket={BUCKET}", *listening, "-s3.port.iceberg=0"),
            *("-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
        ]
        with (self._folder.parent / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(command, env={**os.environ, **self.variables}, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT_S
        while not self._has_bucket():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start; see {self._folder.parent / 'weed.log'}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; without one running nothing happens."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _has_bucket(self) -> bool:
        """Whether it answers for the bucket: with 403, as nobody signed the question, or 200."""
        try:
            with urllib.request.urlopen(f"{self.variables['AWS_ENDPOINT_URL']}/{BUCKET}", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 403
        except OSError:
            return False


def _free_ports(number: int) -> list[int]:
    """Return ports that are free together with their neighbours for gRPC."""
    found: list[int] = []
    while len(found) < number:
        port = random.SystemRandom().randrange(15_000, 22_700)
        if port not in found and all(_is_free(one) for one in (port, port + GRPC_OFFSET)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
