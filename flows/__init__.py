"""Prefect flows: composition only, one flow per stage, each runnable alone (``python -m flows.retrain RECIPE``).

With ``PREFECT_API_URL`` (environment or profile) the runs go to that server, unchanged. Without it Prefect starts an
ephemeral server for the run, which keeps its history where Prefect always does, in ``PREFECT_HOME`` (``~/.prefect``):
a person's own settings and earlier runs stay in force and in sight. The defaults below apply only where nothing is set.
"""

import os
import sys

from softalign.processes.leaving import leave_at_once

DEFAULTS = {
    # Prefect's own 20 s are too short for the first start, which makes the database (measured: 31 s on 2 cores).
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)

if sys.argv[0] == "-m":  # Python looks for the module of `python -m flows.NAME`: its imports take seconds
    leave_at_once()
