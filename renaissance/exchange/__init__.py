"""Other programs' models become checkpoints."""
