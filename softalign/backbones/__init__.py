"""Backbones: frozen pipelines with the places where soft tokens enter. Families do not know each other."""
