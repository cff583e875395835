"""A run's folder, its checkpoints, where it starts."""
