"""Prefect flows: composition only, one flow per stage, each runnable alone."""
