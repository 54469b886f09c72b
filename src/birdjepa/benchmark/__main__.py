"""`python -m birdjepa.benchmark ...` is `birdjepa benchmark ...`."""

import sys

from birdjepa.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
