"""GenEval's published rules and nothing else: prompts, detections, decisions, scores, the official folder layout."""
