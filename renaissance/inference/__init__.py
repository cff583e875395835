"""A checkpoint for your own images and texts."""
