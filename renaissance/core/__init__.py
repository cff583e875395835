"""Errors, files, signals: for every room."""
