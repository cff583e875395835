"""Models of other programs become checkpoints of this one (`import`)."""
