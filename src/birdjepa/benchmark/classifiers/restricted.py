"""The model's own classifier, restricted to the task's classes by name: nothing is trained.

Source: "Restricted" in arXiv 2508.01277; BirdSet masks a large model's logits the same way.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestrictedConfig:
    """A model's own logits, as `backbones.vocabulary.restrict` picks them; it has no settings."""

    needs_tokens = False
