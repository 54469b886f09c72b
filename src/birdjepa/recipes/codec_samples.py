"""What a codec in training sounds like: some clips, decoded now and then, with pictures, distances and a line on codes.

samples/original-0.wav and .png are what went in, samples/step0000500-0.wav and .png what came out after 500 updates, by
the averaged weights where there are any. All pictures of a clip have the original's shades. Nothing is drawn at random,
so a resumed run writes the same files again.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from birdjepa.codec.metrics import reconstruction
from birdjepa.codec.usage import CodeCounts, rates
from birdjepa.core import files
from birdjepa.data.loader import Batches
from birdjepa.models.codec import Codec
from birdjepa.report.picture import Levels, levels
from birdjepa.report.png import encode_png
from birdjepa.train.loop import Judge
from birdjepa.train.state import TrainState

JUDGED = ("mel", "mr_stft", "si_sdr_db")
"""Distances that are logged, as sample_NAME."""
ENLARGED = 4
"""Pixels of a frame, and of a band: clips are short, and pictures are looked at by themselves."""


class Samples(Judge):
    """Looks at the first n clips of the run's first batch, at steps that are multiples of `every` and at the last. The
    codec is one of its own, with the run's encoder.
    """

    def __init__(
        self,
        codec: Codec,
        state: TrainState,
        clips: Batches,
        folder: Path,
        *,
        every: int,
        last: int,
        n: int,
        say: Callable[[str], None],
    ) -> None:
        self._codec, self._state = codec.eval(), state
        self._folder, self._every, self._last, self._say = folder, every, last, say
        batch = clips.batch(0)
        shown = zip(batch.clips[:n], batch.lengths[:n].tolist(), strict=True)
        self._heard = [clip[:length] for clip, length in shown]

    def judge(self) -> dict[str, float]:
        step = self._state.step
        if step % self._every and step != self._last:
            return {}
        weights = self._state.exported()  # all processes take part
        if not self._state.engine.processes.is_first:
            return {}
        self._codec.learnt.load_state_dict(weights)
        return self._look(step)

    def is_over(self) -> bool:
        return False

    @torch.inference_mode()
    def _look(self, step: int) -> dict[str, float]:
        codec, config = self._codec, self._codec.config
        packing = config.packing()
        counts = CodeCounts(packing)
        found: dict[str, list[float]] = {name: [] for name in JUDGED}
        for number, real in enumerate(self._heard):
            coded = codec.encode(real[None])
            made = codec.decode(coded.values)[0, : len(real)]
            counts.add(coded.indices[0].numpy())
            shades = levels(self._frames(real))
            if not (self._folder / f"original-{number}.wav").exists():  # a fork begins later than at 0
                self._write(f"original-{number}", real, shades)
            self._write(f"step{step:07d}-{number}", made, shades)
            distances = reconstruction(real, made, config.sampling_rate)
            for name in JUDGED:
                found[name].append(distances[name])
        rate = rates(packing, config.sampling_rate, config.hop)
        used = counts.summary(config.sampling_rate, config.hop)
        self._say(
            f"[TOK] step={step} G={packing.n_groups} fps={rate['frame_hz']:.4f} "
            f"dur={counts.n_frames * config.hop / config.sampling_rate:.2f}s tps={rate['tokens_per_s']:.3f} "
            f"used={used['least_used']:.2f} bits={used['level_bits']:.3f}"
        )
        return {f"sample_{name}": float(np.mean(values)) for name, values in found.items()}

    def _write(self, name: str, wave: Float[Tensor, " s"], shades: Levels) -> None:
        """Sound and picture."""
        sound, rate = io.BytesIO(), self._codec.config.sampling_rate
        soundfile.write(sound, wave.numpy(), rate, format="WAV", subtype="PCM_16")
        files.write_bytes(self._folder / f"{name}.wav", sound.getvalue())
        shown = self._frames(wave).T[::-1].astype(np.float64)
        enlarged = np.ascontiguousarray(shown.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1))
        files.write_bytes(self._folder / f"{name}.png", encode_png(enlarged, *shades))

    def _frames(self, wave: Float[Tensor, " s"]) -> Float[np.ndarray, "t m"]:
        """Log-mel frames of 10 ms."""
        front_end = self._codec.encoder.config.log_mel
        short = front_end.window - len(wave)
        return front_end.build().log_mel(torch.nn.functional.pad(wave, (0, max(0, short)))[None])[0].numpy()
