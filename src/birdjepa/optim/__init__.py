"""Which parameters learn how fast: groups, optimisers, parameterisation, schedules, averaged weights."""

from birdjepa.optim.groups import AdamWConfig
from birdjepa.optim.muon import MuonConfig

AnyOptimiser = AdamWConfig | MuonConfig

OPTIMISERS: dict[str, type[AnyOptimiser]] = {"adamw": AdamWConfig, "muon": MuonConfig}
"""What `birdjepa pretrain --optim NAME` takes for encoders of spectrograms."""
