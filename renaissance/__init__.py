"""Renaissance: a command-line platform for vision-language encoders."""

__version__ = "0.1.0"
