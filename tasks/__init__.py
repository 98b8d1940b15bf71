"""Prefect tasks: a library call each, with its retry policy, logging and artifacts."""
