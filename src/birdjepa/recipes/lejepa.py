"""LeJEPA recipes: functions that return a whole configuration, each headed by what it is for and what it measured."""

from birdjepa.recipes.config import PretrainConfig


def lejepa() -> PretrainConfig:
    """The default: a tiny ViT on log-mels, for a CPU or a first look on a GPU."""
    return PretrainConfig()


RECIPES = {"lejepa": lejepa}
"""What `birdjepa pretrain NAME` takes."""
