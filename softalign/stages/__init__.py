"""The stages as an operation: what each one's key is, how it is run, planned, refused beforehand and found again."""
