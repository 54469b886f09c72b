"""`python -m birdjepa`, which is what torchrun starts: torchrun --nproc-per-node 2 -m birdjepa pretrain ..."""

import sys

from birdjepa.cli import main

if __name__ == "__main__":
    sys.exit(main())
