"""Child processes: launched, watched, stopped and kept apart by locks."""
