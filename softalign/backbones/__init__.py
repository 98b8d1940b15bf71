"""Backbones: frozen denoisers with the places where soft tokens enter."""
