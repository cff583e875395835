"""A generated world, learned in minutes."""
