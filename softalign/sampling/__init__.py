"""Images from prompts, and edits of pictures, by a frozen pipeline with or without soft tokens."""
