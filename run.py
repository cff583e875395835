"""The command line of Renaissance: `python run.py with <task> key=value`; see renaissance/cli.py."""

import warnings

# Sacred imports pkg_resources, and setuptools < 81 says so each time; Lightning 2.6 calls a pytree name that torch renamed.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)

from renaissance.cli import main  # noqa: E402
from renaissance.launch import leave  # noqa: E402

if __name__ == "__main__":
    leave(main())
