"""Tables among a run's files, which MLflow's pages show as such."""

from __future__ import annotations

import json
from typing import Any

TABLES_TAG = "mlflow.loggedArtifacts"
"""MLflow's list of a run's tables."""


def log_table(client: Any, run_id: str, table: dict[str, Any], filename: str) -> None:
    """Log a table (``columns`` and ``data``) as a JSON file, and name it in the list of the run's tables, once."""
    client.log_dict(run_id, table, filename)
    listed = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
    entry = {"path": filename, "type": "table"}
    if entry not in listed:
        client.set_tag(run_id, TABLES_TAG, json.dumps([*listed, entry]))
