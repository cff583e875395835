"""The loop, and all that a run is built of."""
