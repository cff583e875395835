"""Encoders, fusion and heads; knows no task."""
