"""Adapters for other places: the Hugging Face hub, ComfyUI, the papers' own code."""
