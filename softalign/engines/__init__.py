"""Where independent parts of a stage's work are done: in this process, or by the processes of a Ray cluster."""
