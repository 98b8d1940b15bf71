"""Detectors of photographs: Mask2Former for objects, CLIP for colours, and what says whose weights they are."""
