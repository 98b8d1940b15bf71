"""The orchestrator's side of the flows: starting its server for one run, and seeing to runs whose process is gone."""
