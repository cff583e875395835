"""The code that an exported folder brings, in pieces; `one_file.py` joins them. It imports nothing of this package."""
