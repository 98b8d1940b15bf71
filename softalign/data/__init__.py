"""From image and caption sources to batches: ``curation``, ``captions`` and ``encoding``."""
