"""`python -m birdjepa` is the command `birdjepa`, for launchers that start modules (torchrun, SLURM)."""

import sys

from birdjepa.cli import main

sys.exit(main())
