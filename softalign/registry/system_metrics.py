"""How busy the machine of a training is, in MLflow's names (``system/...``) and by MLflow's own monitor.

The monitor is asked for its samples only: its own thread would not know the login of a tracking URI.
"""

from __future__ import annotations

import time
from typing import Any

PREFIX = "system/"


class SystemMetrics:
    """Samples of processors, memory, disk, network, and of GPUs where NVML is installed.

    Args:
        client: of the registry.
        run: whose training it is.
    """

    def __init__(self, client: Any, run: Any) -> None:
        self._run_id, self._start_ms = run.info.run_id, run.info.start_time
        self._monitor = _monitor_of(client, self._run_id)
        self._posted_at = time.monotonic()

    def sample(self, client: Any) -> None:
        """Take a sample, and post the mean of those taken since the last post once the monitor's interval is over.

        Steps are seconds since the run began, so that a resumed run goes on behind its first part.
        """
        from mlflow.entities import Metric

        monitor, now_ms = self._monitor, int(time.time() * 1000)
        if monitor is None:
            return
        try:
            monitor.collect_metrics()
        except Exception:  # psutil's, as below
            self._monitor = None
            return
        if time.monotonic() - self._posted_at < monitor.sampling_interval:
            return
        step, found = max(now_ms - self._start_ms, 0) // 1000, monitor.aggregate_metrics()
        client.log_batch(
            self._run_id, metrics=[Metric(PREFIX + name, float(value), now_ms, step) for name, value in found.items()]
        )
        self._posted_at = time.monotonic()
        for one in monitor.monitors:
            one.clear_metrics()


def _monitor_of(client: Any, run_id: str) -> Any:
    """Return MLflow's monitor; None where MLflow's own switch is off, or psutil cannot tell."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as SWITCH

    if SWITCH.is_set() and not SWITCH.get():
        return None
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        return SystemMetricsMonitor(run_id, tracking_uri=client.tracking_uri)
    except Exception:  # psutil is not installed, or fails in one of many ways in a sandbox: curves need none of it
        return None
