"""Arrow files to batches."""
