"""Images from prompts, by a frozen pipeline with or without soft tokens."""
