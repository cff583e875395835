"""The command line: `python run.py with ...`.

See renaissance/cli/main.py.
"""

from renaissance.cli.entry import run_program

if __name__ == "__main__":
    run_program()
