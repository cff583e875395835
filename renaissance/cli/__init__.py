"""One file a sub-command; help, way in and out."""
