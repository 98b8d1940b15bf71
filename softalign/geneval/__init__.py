"""GenEval: prompts, detections, scoring, paired comparison and the report."""
