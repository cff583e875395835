"""From flat keys to checked sections."""
