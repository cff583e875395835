"""The command line of Renaissance: `python run.py with <task> key=value`; see renaissance/cli.py."""

from renaissance.entry import run_program

if __name__ == "__main__":
    run_program()
