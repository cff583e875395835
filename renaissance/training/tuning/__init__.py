"""Settings that are measured on a few real steps."""
