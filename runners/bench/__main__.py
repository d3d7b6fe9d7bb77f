"""`python -m runners.bench`: see `runners.bench.methods`."""

import sys

from runners.bench.methods import main
from runners.terminal.cli import run_main

if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
