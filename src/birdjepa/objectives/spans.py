"""Masks on the frames of a clip: spans that together hide an exact share, each clip's drawn from a stream of its own.

Axes: b clips | n frames
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from birdjepa.core import random
from birdjepa.objectives.base import Chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanMaskConfig:
    """How much is hidden, and in how long pieces.

    Source: arXiv 2512.07168 for the defaults, whose own sampler counts overlaps twice; here the count is exact.
    """

    share: float = 0.5
    """Share of a clip's frames that are hidden: to the frame, with at least one hidden and one seen."""
    shortest: int = 2
    """Frames of the shortest span; one of a clip may be shorter, so that the count is exact, and one may be cut by the
    clip's ends."""
    longest: float = 0.25
    """Longest span as a share of the clip, 4 frames at least."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.shortest < 1 or not 0 < self.longest <= 1:
            raise ValueError(
                "need 0 < share < 1, shortest >= 1 frame and 0 < longest <= 1; got "
                f"{self.share}, {self.shortest}, {self.longest}"
            )

    def n_hidden(self, n_frames: int) -> int:
        """Frames that are hidden of a clip of so many; of a single frame none."""
        return min(max(1, round(self.share * n_frames)), n_frames - 1)

    def draw(self, n_frames: int, generator: np.random.Generator) -> Bool[np.ndarray, " n"]:
        """Which frames are hidden. Any division of what is seen into the gaps between spans is as likely; the whole is
        then turned round by a drawn number of frames, so that those at the ends are hidden as often as others.
        """
        hidden = np.zeros(n_frames, dtype=bool)
        left = self.n_hidden(n_frames)
        longest = max(4, int(n_frames * self.longest), self.shortest)
        spans = []
        while left > 0:
            spans.append(min(int(generator.integers(self.shortest, longest + 1)), left))
            left -= spans[-1]
        generator.shuffle(spans)
        n_seen = n_frames - sum(spans)
        bars = np.sort(generator.choice(n_seen + len(spans), len(spans), replace=False))
        place = 0
        for number, (bar, span) in enumerate(zip(bars, spans, strict=True)):
            first = int(bar) - number + place  # what is seen before it, and the spans before it
            hidden[first : first + span] = True
            place += span
        return np.roll(hidden, int(generator.integers(n_frames)))


def draw_spans(n_frames: Sequence[int], n: int, config: SpanMaskConfig, chance: Chance) -> Bool[Tensor, "b n"]:
    """Hidden frames of this process's clips, of so many frames each, in rows of n; on the CPU."""
    hidden = torch.zeros(len(n_frames), n, dtype=torch.bool)
    for row, (number, count) in enumerate(zip(_numbers(len(n_frames), chance), n_frames, strict=True)):
        generator = random.generator(chance.seed, "mask", chance.step, chance.micro, number)
        hidden[row, :count] = torch.from_numpy(config.draw(count, generator))
    return hidden


def _numbers(n_clips: int, chance: Chance) -> Sequence[int]:
    """Numbers of this process's clips within the micro-batch of all."""
    return chance.own(np.arange(chance.of_all(n_clips))).tolist()
