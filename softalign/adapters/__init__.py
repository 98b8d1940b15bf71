"""The adapter as an artefact: its files and how they are found, attached to a pipeline, converted and described.

Importing this package loads no torch.
"""
