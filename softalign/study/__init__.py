"""Studies: a matrix of recipes, objectives, seeds and guidance through the stages, and what all of it shows."""
