"""A backbone: a model under test, whatever it was made with, behind one small contract.

An adapter declares what it is (`Card`) and answers `hear`: clips of one length in, vectors out. How examples of any
length become its clips is decided once, in `embed`: a shorter example is one clip, padded only if the model needs it; a
longer one is covered by as few clips as will do, evenly spread, the first at its start and the last at its end. Pooled
vectors are averaged over the clips, logits take their maximum, tokens stand one behind the other. What goes in and what
comes out is checked against the card.

Axes: b examples or clips | s audio samples | l layers | e pooled embedding | n tokens | d width of a token | c classes
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from birdjepa.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What an adapter declares of its model."""

    name: str
    """As results and tables call it."""
    sampling_rate: int
    """In Hz; examples of another rate are refused."""
    clip_s: float
    """Longest clip that it hears at once."""
    fixed_length: bool
    """Whether a clip must be clip_s long, so that shorter ones are padded."""
    least_s: float = 0.0
    """Shortest clip; shorter ones are padded to it."""
    preprocessing: str
    """What happens to the samples before the model's first layer, in words."""
    width: int
    """Numbers in a pooled embedding, of whatever layer."""
    n_layers: int = 1
    """Layers that can be asked for, 1 to n_layers; 1 where only the output is given."""
    token_width: int | None = None
    """None where the model gives no tokens."""
    token_rows: int = 1
    """Tokens that stand for the same moment (frequencies); tokens are in the order of time, those of a moment in the
    order of frequency."""
    token_hop_s: float | None = None
    """Seconds from a moment of tokens to the next, the first one beginning with the clip."""
    classes: tuple[str, ...] = ()
    """What its own logits stand for; empty where it has none. Names may come more than once."""
    licence: str
    overlaps: tuple[tuple[str, str], ...] = ()
    """(task or suite, warning): test data that the model may have been trained on."""
    no_finetuning: str = ""
    """Why it cannot be fine-tuned here; empty where it can."""

    @property
    def clip_samples(self) -> int:
        """Longest clip, in samples."""
        return round(self.clip_s * self.sampling_rate)

    @property
    def least_samples(self) -> int:
        """Shortest clip, in samples."""
        return self.clip_samples if self.fixed_length else max(1, round(self.least_s * self.sampling_rate))

    def warnings(self, task: str, suite: str) -> tuple[str, ...]:
        """What a reader of its scores on a task must know."""
        return tuple(warning for where, warning in self.overlaps if where in (task, suite))


class Want(NamedTuple):
    """What to compute."""

    layers: tuple[int, ...] = ()
    """Numbers from 1; empty for the last alone."""
    tokens: bool = False
    """Of the last of the layers."""
    logits: bool = False


class Heard(NamedTuple):
    """What a backbone says of a batch of clips or examples; float32."""

    pooled: Float[Tensor, "l b e"]
    """One entry per layer that was asked for."""
    tokens: Float[Tensor, "b n d"] | None = None
    real: Bool[Tensor, "b n"] | None = None
    """False for tokens that heard nothing but padding, and for those that a shorter example lacks; there where tokens
    are."""
    logits: Float[Tensor, "b c"] | None = None


class Backbone(abc.ABC):
    """Subclasses are final and define `card`, `device`, `identity` and `_hear`."""

    card: Card
    device: torch.device

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as JSON: hash of the weights, preprocessing, pooling, revision. Results and cached
        features are keyed by it."""

    @abc.abstractmethod
    def _hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        """`hear` for clips that were checked, on the device. Layers are named; no gradients are recorded."""

    @final
    @torch.inference_mode()
    def hear(self, clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], want: Want) -> Heard:
        """Clips of one length at the card's rate, zero-padded behind n_samples, which must change nothing but length.

        Raises:
          ValueError: for clips of a length that the card excludes, or something that it says it cannot give.
        """
        card, length = self.card, clips.shape[1]
        if not card.least_samples <= length <= card.clip_samples:
            allowed = f"{card.least_samples} to {card.clip_samples}"
            raise ValueError(f"{card.name} hears clips of {allowed} samples, got {length}")
        if not ((n_samples >= 1) & (n_samples <= length)).all():
            raise ValueError(f"n_samples must be in [1, {length}], got {n_samples.tolist()}")
        if not all(1 <= layer <= card.n_layers for layer in want.layers):
            raise ValueError(f"{card.name} has layers 1 to {card.n_layers}, got {want.layers}")
        if want.tokens and card.token_width is None:
            raise ValueError(f"{card.name} gives no tokens, only one embedding per clip")
        if want.logits and not card.classes:
            raise ValueError(f"{card.name} has no classes of its own")
        want = want._replace(layers=want.layers or (card.n_layers,))
        heard = self._hear(clips.to(self.device, torch.float32), n_samples, want)
        self._check(heard, len(clips), want)
        return heard

    @final
    def embed(
        self,
        examples: Sequence[Float[np.ndarray, " _"]],
        want: Want,
        *,
        sampling_rate: int,
        names: Sequence[str] = (),
        batch_size: int = 16,
    ) -> Heard:
        """Examples of any length, cut into clips and put together again; on the CPU.

        Clips of one length are heard together, batch_size at a time. names are what errors call the examples.

        Raises:
          ValueError: if the rate is not the card's, an example is empty or not finite, or something is wanted that the
          card says the model cannot give.
          UserError: if the model answers with NaN or infinite numbers; it names the model and the example.
        """
        card = self.card
        if sampling_rate != card.sampling_rate:
            raise ValueError(f"{card.name} hears {card.sampling_rate} Hz, got {sampling_rate} Hz: resample first")
        if not len(examples):
            raise ValueError("there must be at least one example")
        called = list(names) or [f"example {number}" for number in range(len(examples))]
        clips: list[tuple[int, np.ndarray]] = []
        for number, samples in enumerate(examples):
            if not (len(samples) and np.isfinite(samples).all()):
                what = "holds NaN or infinite samples" if len(samples) else "is empty"
                raise ValueError(f"{called[number]} {what}")
            starts = cover(len(samples), card.clip_samples)
            clips += [(number, samples[start : start + card.clip_samples]) for start in starts]
        heard = self._hear_all([samples for _, samples in clips], want, batch_size)
        return self._join(heard, [number for number, _ in clips], called)

    def _hear_all(self, clips: list[np.ndarray], want: Want, batch_size: int) -> list[Heard]:
        """What is said of each clip by itself, in their order."""
        heard: dict[int, Heard] = {}
        order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        while order:
            length = len(clips[order[0]])
            batch = [i for i in order[:batch_size] if len(clips[i]) == length]
            order = order[len(batch) :]
            padded = np.zeros((len(batch), max(length, self.card.least_samples)), dtype=np.float32)
            for row, i in enumerate(batch):
                padded[row, :length] = clips[i]
            said = self.hear(torch.from_numpy(padded), torch.full((len(batch),), length), want)
            for row, i in enumerate(batch):
                heard[i] = Heard(
                    said.pooled[:, row : row + 1].cpu(),
                    *(None if each is None else each[row : row + 1].cpu() for each in said[1:]),
                )
        return [heard[i] for i in range(len(clips))]

    def _join(self, clips: list[Heard], owner: list[int], called: list[str]) -> Heard:
        """Examples from their clips, which come in the examples' order."""
        own: list[list[Heard]] = [[] for _ in called]
        for clip, number in zip(clips, owner, strict=True):
            own[number].append(clip)
        joined = [_one_of(each) for each in own]
        for name, example in zip(called, joined, strict=True):
            for what, numbers in (
                ("embedding", example.pooled),
                ("tokens", example.tokens),
                ("logits", example.logits),
            ):
                if numbers is not None and not numbers.isfinite().all():
                    raise UserError(f"{self.card.name}: NaN or infinite numbers in the {what} of {name}")
        return stack(joined)

    def _check(self, heard: Heard, n_clips: int, want: Want) -> None:
        """Whether a batch is as the card says. What is wrong here is the adapter's fault, or its settings'."""
        card = self.card
        expected: dict[str, tuple[int, ...]] = {"pooled": (len(want.layers), n_clips, card.width)}
        if want.logits:
            expected["logits"] = (n_clips, len(card.classes))
        if want.tokens:
            n_tokens = heard.tokens.shape[1] if heard.tokens is not None else 0
            expected |= {"tokens": (n_clips, n_tokens, card.token_width or 0), "real": (n_clips, n_tokens)}
        for name, shape in expected.items():
            numbers = getattr(heard, name)
            if numbers is None or tuple(numbers.shape) != shape:
                got = "nothing" if numbers is None else tuple(numbers.shape)
                raise ValueError(f"{card.name}: its card promises {name} of shape {shape}, the model gives {got}")


def cover(n_samples: int, clip_samples: int) -> list[int]:
    """First samples of the clips that an example is heard in: one at 0 if it fits, else as few as cover it, evenly
    spread, the last one ending with it (3 s on 5 s: 0 and 2 s)."""
    n_clips = max(1, -(-n_samples // clip_samples))
    last = max(0, n_samples - clip_samples)
    return [round(last * i / max(1, n_clips - 1)) for i in range(n_clips)]


def _one_of(clips: Sequence[Heard]) -> Heard:
    """An example from its clips."""
    tokens = real = logits = None
    if clips[0].tokens is not None:
        tokens = torch.cat([each.tokens for each in clips if each.tokens is not None], 1)
        real = torch.cat([each.real for each in clips if each.real is not None], 1)
    if clips[0].logits is not None:
        logits = torch.cat([each.logits for each in clips if each.logits is not None]).amax(0, keepdim=True)
    return Heard(torch.cat([each.pooled for each in clips], 1).mean(1, keepdim=True), tokens, real, logits)


def stack(parts: Sequence[Heard]) -> Heard:
    """Batches one below the other. Tokens are filled up with zeros, which are not real, to the most that there are."""
    pooled = torch.cat([each.pooled for each in parts], 1)
    tokens = real = logits = None
    if parts[0].tokens is not None and parts[0].real is not None:
        most = max(each.tokens.shape[1] for each in parts if each.tokens is not None)
        tokens = pooled.new_zeros(pooled.shape[1], most, parts[0].tokens.shape[2])
        real = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        row = 0
        for each in parts:
            assert each.tokens is not None
            assert each.real is not None
            n_clips, n_tokens = each.real.shape
            tokens[row : row + n_clips, :n_tokens] = each.tokens
            real[row : row + n_clips, :n_tokens] = each.real
            row += n_clips
    if parts[0].logits is not None:
        logits = torch.cat([each.logits for each in parts if each.logits is not None])
    return Heard(pooled, tokens, real, logits)


def unpadded(
    clips: Float[Tensor, "b s"], n_samples: Int[Tensor, " b"], hear: Callable[[Float[Tensor, "k r"]], Heard]
) -> Heard:
    """What a model of clips of any length says of clips without their padding, which it thus never hears: clips of one
    true length at a time."""
    if (n_samples == clips.shape[1]).all():
        return hear(clips)
    lengths = n_samples.unique().tolist()
    rows = [torch.nonzero(n_samples == length).flatten() for length in lengths]
    parts = [hear(clips[own.to(clips.device), :length]) for own, length in zip(rows, lengths, strict=True)]
    back = torch.cat(rows).argsort()
    joined = stack(parts)
    return Heard(joined.pooled[:, back], *(None if each is None else each[back] for each in joined[1:]))
