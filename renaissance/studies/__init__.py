"""Studies: many runs from one file, what became of them, and their table."""
