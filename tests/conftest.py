"""What all tests share: no test reads or writes a person's own settings, caches or servers."""

import atexit
import os
import shutil
import tempfile

_PRIVATE = tempfile.mkdtemp(prefix="softalign-tests-")
atexit.register(shutil.rmtree, _PRIVATE, ignore_errors=True)
for _name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "MLFLOW_TRACKING_URI", "SOFTALIGN_STORE"):
    os.environ.pop(_name, None)
os.environ.update(
    PREFECT_HOME=f"{_PRIVATE}/prefect",
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    SOFTALIGN_CACHE=f"{_PRIVATE}/cache",
    DO_NOT_TRACK="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    HF_HUB_OFFLINE="1",
)
