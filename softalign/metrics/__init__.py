"""Measures of images beside GenEval's verdicts: a judge for GenEval 2, scores of image and text, distances of sets."""
