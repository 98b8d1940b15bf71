"""A Ray cluster of several processes on this machine, once for the tests that need one."""

import os
import secrets

import pytest


@pytest.fixture(scope="session")
def cluster():
    """Three cores' worth of processes, on loopback; the token stays in this environment, and in no home folder."""
    ray = pytest.importorskip("ray")
    os.environ.update(
        RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0"
    )
    ray.init(
        num_cpus=3,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
    )
    yield ray
    ray.shutdown()
