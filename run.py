"""The command line of Renaissance: `python run.py with <task> key=value`; see renaissance/cli/main.py."""

from renaissance.cli.entry import run_program

if __name__ == "__main__":
    run_program()
