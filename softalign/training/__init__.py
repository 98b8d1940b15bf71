"""From an encoded set to an adapter: ``train`` is the stage, ``loop`` the updates, ``step`` one of them.

A run is killed at any moment and goes on at its last checkpoint, with the same bytes.
"""
