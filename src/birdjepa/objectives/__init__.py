"""What an encoder learns by: one file per objective; views, masks and what can be added to a loss beside them.

A new objective is a file with its configuration and one entry in `AnyObjective`.
"""

from typing import get_args

from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.pixio import PixioConfig
from birdjepa.objectives.supervised import SupervisedConfig

AnyObjective = LejepaConfig | PixioConfig | AjepaConfig | SupervisedConfig | DietConfig
"""Every objective's configuration."""

OBJECTIVES: dict[str, type[AnyObjective]] = {kind.name: kind for kind in get_args(AnyObjective)}
"""Name -> configuration."""
