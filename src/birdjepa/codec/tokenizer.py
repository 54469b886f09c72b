"""The tokenizer that people use: a waveform or a recording of any length to codes, and codes to sound of its length.

A recording is always encoded by itself, never padded beside others, so its codes depend on nothing but its samples. The
encoder and the vocoder look back and ahead, so there is no streaming with a small delay; what is bounded is memory.
Long recordings go through in chunks, each `context` frames longer at either side than what is kept of it:

- Where the encoder's receptive field is bounded, context covers it: a chunk's frames are those of the whole recording
  but for rounding in the last bits, so a code can differ only where a value lies that near to a threshold.
- Where it is not (reach 0), a chunk is as long as the clips that the encoder was trained on, and its middle half is
  kept. That is another computation than one over the whole, and gives other codes.

Decoding is chunked likewise; a vocoder's receptive field is always bounded.

Axes: s audio samples | t frames | g groups
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from birdjepa.audio.decode import Source, resample_blocks
from birdjepa.audio.recording import Recording
from birdjepa.codec.container import Codes
from birdjepa.codec.usage import rates
from birdjepa.core import config as configs
from birdjepa.core.errors import AudioError, CodeError
from birdjepa.embed.collection import weights_sha256
from birdjepa.models import codec as networks
from birdjepa.models.codec import Codec
from birdjepa.models.sound_encoder import mono_of
from birdjepa.nn.packing import Packing

CHUNK_S = 30.0
"""What a chunk adds where nothing is said and the receptive field is bounded; and what is decoded at once."""
_BLOCK = 1 << 18
"""Native samples read at once."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How recordings are cut, and how their codes are packed."""

    chunk_s: float = 0.0
    """Seconds of sound that each chunk of a long recording adds. 0 takes 30 where the encoder's receptive field is
    bounded, and half of the clips that it was trained on where it is not."""
    group_size: int = 0
    """Codes of a frame that are packed into one integer; 0 takes the codec's own number."""
    order: Literal["little", "big"] = "little"
    """Whether a group's first code counts least or most."""

    def __post_init__(self) -> None:
        if not 0 <= self.chunk_s < float("inf"):
            raise ValueError(f"chunk_s must be 0 or positive seconds, got {self.chunk_s}")
        if self.group_size < 0:
            raise ValueError(f"group_size must be 0 or positive, got {self.group_size}")


class Tokenizer:
    """A codec with all that lies around it. `load_codec(folder)` gives one.

    Raises:
      ValueError: if a group of so many codes cannot be packed.
    """

    def __init__(self, codec: Codec, config: TokenizerConfig | None = None) -> None:
        self.codec = codec.eval()
        self.config = config or TokenizerConfig()
        size = self.config.group_size or codec.config.group_size
        self.packing: Packing = dataclasses.replace(codec.config.packing(), group_size=size, order=self.config.order)
        self.sha256 = weights_sha256(codec)
        """What files of codes name their codec by: `weights_sha256` in its folder's config.json."""
        frame_rate, network = self.sampling_rate / self.hop, codec.config.encoder.network
        self.is_bounded = network.receptive_field >= 0
        """Whether chunks give the whole recording's codes."""
        chunk_s = self.config.chunk_s or (CHUNK_S if self.is_bounded else codec.config.encoder.clips.clip_s / 2)
        self.new = max(1, round(chunk_s * frame_rate))
        """Frames that a chunk adds."""
        self.context = -(-network.receptive_field // self.hop) if self.is_bounded else max(1, self.new // 2)
        """Frames at either side that a chunk has for hearing only."""

    @property
    def sampling_rate(self) -> int:
        """Of the codec, in Hz."""
        return self.codec.config.sampling_rate

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self.codec.config.hop

    @property
    def device(self) -> torch.device:
        return next(self.codec.parameters()).device

    def encode(self, waveform: np.ndarray | Tensor | Sequence[float], *, sampling_rate: int, source: str = "") -> Codes:
        """Codes of a waveform (time,) or (channels, time) in [-1, 1], of any length from one sample on and any rate.

        Channels are averaged, and other rates resampled as a whole. Deterministic.

        Raises:
          ValueError: if the waveform is empty, not finite, of integers, or not of these shapes; or the rate is not
          positive.
        """
        if sampling_rate < 1:
            raise ValueError(f"sampling_rate must be positive, got {sampling_rate}")
        return self._encode([mono_of(waveform)], sampling_rate, source, lambda: None)

    def encode_recording(
        self, recording: Source, *, source: str, before_chunk: Callable[[], None] = lambda: None
    ) -> Codes:
        """Codes of a recording, read block by block: equal to those of `encode`, in memory for a chunk or two.

        Raises:
          AudioError: where the recording cannot be decoded; and whatever before_chunk raises.
        """
        with Recording(recording) as opened:
            return self._encode(_blocks(opened), opened.sampling_rate, source, before_chunk)

    def decode(self, codes: Codes) -> Float[np.ndarray, " s"]:
        """Sound of codes at the codec's rate, float32 in [-1, 1], exactly `codes.n_samples` of it.

        Raises:
          CodeError: if another codec has made them.
        """
        return np.concatenate(list(self.decode_blocks(codes)))

    def decode_blocks(self, codes: Codes, where: str = "") -> Iterator[Float[np.ndarray, " _"]]:
        """`decode` in pieces and bounded memory; where names the codes in messages, by default by their source.

        Raises:
          CodeError: as `decode`, before the first piece.
        """
        self.check(codes, where)
        around = self.codec.vocoder.receptive_field
        step = max(1, round(CHUNK_S * self.sampling_rate / self.hop))
        for first in range(0, codes.n_frames, step):
            last = min(first + step, codes.n_frames)
            begin = max(0, first - around)
            wave = self._decode(codes.packing.unpack(codes.packed[begin : last + around]))
            kept = wave[(first - begin) * self.hop : (last - begin) * self.hop]
            yield kept[: codes.n_samples - first * self.hop]

    def roundtrip(
        self, waveform: np.ndarray | Tensor | Sequence[float], *, sampling_rate: int
    ) -> Float[np.ndarray, " s"]:
        """What comes back of a waveform, at the codec's rate, as long as the waveform is at that rate.

        Raises:
          ValueError: as `encode`.
        """
        return self.decode(self.encode(waveform, sampling_rate=sampling_rate))

    def check(self, codes: Codes, where: str = "") -> None:
        """Refuses codes that are not this codec's.

        Raises:
          CodeError: saying so in one line.
        """
        where = where or codes.source or "codes"
        if codes.codec != self.sha256:
            reason = (
                f"was made by codec {codes.codec[:12]}, and this one is {self.sha256[:12]}: take the codec it is of"
            )
            raise CodeError(where, 0.0, reason)
        ours = (self.sampling_rate, self.hop, -(-codes.n_samples // self.hop), self.packing.radices)
        if (codes.sampling_rate, codes.hop, codes.n_frames, codes.packing.radices) != ours:
            raise CodeError(
                where, 0.0, "says that this codec has made it, with rates or levels that are not the codec's"
            )

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON: rates, levels, what it hears, its size and its configuration."""
        network = self.codec.config.encoder.network
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in self.codec.named_children()}
        seconds = self.hop / self.sampling_rate
        return {
            "sha256": self.sha256,
            "sampling_rate": self.sampling_rate,
            "hop": self.hop,
            "dimensions": len(self.packing.radices),
            "levels": sorted(set(self.packing.radices)),
            "group_size": self.packing.group_size,
            "n_groups": self.packing.n_groups,
            "order": self.packing.order,
            "rates": rates(self.packing, self.sampling_rate, self.hop),
            "looks_ahead_s": network.receptive_field / self.sampling_rate if self.is_bounded else None,
            "chunks_equal_whole": self.is_bounded,
            "chunk_s": (self.new + 2 * self.context) * seconds,
            "overlap_s": 2 * self.context * seconds,
            "parameters": sizes,
            "config": configs.to_json(self.codec.config),
        }

    def _encode(
        self,
        blocks: Iterable[Float[np.ndarray, " _"]],
        sampling_rate: int,
        source: str,
        before_chunk: Callable[[], None],
    ) -> Codes:
        """Codes of mono blocks at a rate of their own. Chunk i hears frames [i new, i new + new + 2 context)."""
        most = (self.new + 2 * self.context) * self.hop
        waiting, n_waiting, n_samples = [np.zeros(0, dtype=np.float32)], 0, 0
        pieces: list[Integer[np.ndarray, "t g"]] = []

        def add(samples: Float[np.ndarray, " _"], last: int | None) -> None:
            before_chunk()
            packed = self._packed(samples, source, len(pieces) * self.new)
            pieces.append(packed[self.context if pieces else 0 : last])

        for block in resample_blocks(blocks, sampling_rate, self.sampling_rate):
            waiting.append(block)
            n_samples, n_waiting = n_samples + len(block), n_waiting + len(block)
            if n_waiting > most:
                held, first = np.concatenate(waiting), 0
                while len(held) - first > most:
                    add(held[first : first + most], self.context + self.new)
                    first += self.new * self.hop
                waiting, n_waiting = [held[first:].copy()], len(held) - first
        if not n_samples:
            raise AudioError(source, 0.0, "empty: there are no samples")
        add(np.concatenate(waiting), None)
        is_cut = len(pieces) > 1
        return Codes(
            sampling_rate=self.sampling_rate,
            hop=self.hop,
            n_samples=n_samples,
            packing=self.packing,
            packed=np.concatenate(pieces),
            codec=self.sha256,
            source=source,
            chunk_frames=self.new + 2 * self.context if is_cut else 0,
            overlap_frames=2 * self.context if is_cut else 0,
        )

    @torch.inference_mode()
    def _packed(self, samples: Float[np.ndarray, " s"], source: str, first: int) -> Integer[np.ndarray, "t g"]:
        """Packed codes of samples that begin with frame `first`, which are a batch of their own."""
        coded = self.codec.encode(torch.from_numpy(samples)[None].to(self.device))
        if not coded.values.isfinite().all():
            frame = int((~coded.values.isfinite()).any(2)[0].nonzero()[0])
            place = (first + frame) * self.hop / self.sampling_rate
            raise AudioError(source, place, "not finite: the encoder's numbers for this sound")
        return self.packing.pack(coded.indices[0].cpu().numpy())

    @torch.inference_mode()
    def _decode(self, indices: Integer[np.ndarray, "t d"]) -> Float[np.ndarray, " s"]:
        values = self.codec.quantiser.fsq.values_of(torch.from_numpy(indices)[None].to(self.device))
        return self.codec.decode(values)[0].float().cpu().numpy()


def load_codec(
    folder: Path | str, *, config: TokenizerConfig | None = None, device: torch.device | str = "cpu"
) -> Tokenizer:
    """The codec in a folder, ready for use.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    return Tokenizer(networks.load_codec(folder, device=device), config)


def _blocks(recording: Recording) -> Iterator[Float[np.ndarray, " _"]]:
    while len(samples := recording.read(_BLOCK, None)):
        yield samples
