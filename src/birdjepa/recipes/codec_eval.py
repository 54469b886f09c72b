"""How good a codec is on recordings: what comes back of each, beside two floors, and what the codes cost.

The floors are Griffin-Lim at the codec's frame rate (`codec.griffin_lim`) and silence. All are judged against the
recording at the codec's rate. Means carry percentile intervals over recordings (or their groups), and so do the
differences between codec and floor, recording by recording.
"""

import dataclasses
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.audio.decode import read_clip
from birdjepa.benchmark import bootstrap
from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.codec import griffin_lim, metrics
from birdjepa.codec.tokenizer import Tokenizer
from birdjepa.codec.usage import CodeCounts, rates
from birdjepa.core import config as configs
from birdjepa.core import failures, random
from birdjepa.core.errors import AudioError, UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.manifest import Manifest

SYSTEMS = ("codec", "griffin_lim", "silence")
"""What is judged; the last two are floors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecEvalConfig:
    """Which recordings are judged, and by what."""

    n: int = 0
    """So many recordings, drawn at random; 0 takes all."""
    max_s: float = 60.0
    """Seconds of each recording, from its beginning, that are judged."""
    speech: bool = False
    """Also STOI and PESQ, which are made for speech; needs the extra "codec"."""
    n_resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 0 or self.n_resamples < 1 or not 0 < self.max_s < math.inf:
            raise ValueError(
                f"need n >= 0, n_resamples >= 1 and max_s > 0 seconds, got {self.n}, {self.n_resamples}, {self.max_s}"
            )


@dataclasses.dataclass(frozen=True)
class CodecScores:
    """What was found."""

    described: dict[str, Any]
    """Codec, data and settings, as JSON."""
    recordings: list[dict[str, Any]]
    """Of each recording: path, group, seconds, and its numbers by system and metric."""
    means: dict[str, dict[str, Estimate]]
    """By system and metric; a metric that some recordings have no number for is the mean of the others."""
    above: dict[str, dict[str, Estimate]]
    """Codec minus floor, by floor and metric."""
    usage: dict[str, Any]
    """Of the codes: `CodeCounts.summary`, and the levels that each dimension uses."""
    chunks: dict[str, float] | None
    """How codes in chunks differ from those of the whole, where recordings were cut: n_frames, differing (a share of
    the codes), bounded (1 where context makes chunks equal the whole); None where none was."""
    speed: dict[str, float]
    """Seconds of sound per second of encoding, and of decoding."""
    refused: list[Failure]

    def to_json(self) -> dict[str, Any]:
        """The whole, for a file; no number is NaN."""
        return {
            **self.described,
            "n_recordings": len(self.recordings),
            "n_refused": len(self.refused),
            "seconds": math.fsum(each["seconds"] for each in self.recordings),
            "means": _to_json(self.means),
            "codec_minus_floor": _to_json(self.above),
            "usage": self.usage,
            "chunks": self.chunks,
            "speed": self.speed,
            "recordings": self.recordings,
        }


def evaluate(
    tokenizer: Tokenizer,
    manifest: Manifest,
    config: CodecEvalConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CodecScores:
    """Judges a codec on recordings of a manifest; damaged ones are listed and left out.

    Raises:
      UsageError: if none of them can be read.
      MissingExtraError: for speech measures without their libraries.
    """
    whole = manifest.recordings()
    if config.n:
        order = random.generator(config.seed, "codec_eval").permutation(len(whole))
        whole = whole.select(np.sort(order[: config.n]))
    counts, clock = CodeCounts(tokenizer.packing), _Clock()
    rows, refused, cut = [], failures.left_out(manifest.refused), _Chunks(tokenizer)
    for number, key in enumerate(whole.keys):
        try:
            reference = read_clip(whole.source(number), tokenizer.sampling_rate, duration_s=config.max_s)
            if not len(reference):
                raise AudioError(key, 0.0, "too short: not a sample at the codec's rate")
            codes = clock.encode(lambda heard=reference: tokenizer.encode(heard, sampling_rate=tokenizer.sampling_rate))
        except AudioError as error:
            refused.append(Failure(key, "decode", error.offset_s, error.reason))
            continue
        made = clock.decode(lambda given=codes: tokenizer.decode(given))
        clock.seconds += codes.duration_s
        counts.add(codes.indices())
        cut.compare(reference, codes.indices(), was_cut=codes.chunk_frames > 0)
        group = whole.columns["group"][number]
        seconds = {"path": key, "group": group, "seconds": codes.duration_s}
        rows.append({**seconds, **_scores(tokenizer, reference, made, config)})
        progress(number + 1, len(whole))
    if not rows:
        raise UsageError(f"{manifest.name}: not one of {len(refused)} recordings can be read; see birdjepa data scan")
    means, above = _summed_up(rows, config)
    packing = tokenizer.packing
    used = {"levels_used": counts.levels_used().tolist(), "levels": list(packing.radices)}
    return CodecScores(
        described={
            "codec": {key: value for key, value in tokenizer.describe().items() if key != "config"},
            "data": {"name": manifest.name, "fingerprint": manifest.fingerprint()},
            "settings": {**configs.to_json(config), **configs.to_json(tokenizer.config)},
            "rates": rates(packing, tokenizer.sampling_rate, tokenizer.hop),
        },
        recordings=rows,
        means=means,
        above=above,
        usage={
            **counts.summary(tokenizer.sampling_rate, tokenizer.hop),
            "mean_used": float((counts.levels_used() / np.array(packing.radices)).mean()),
            **used,
        },
        chunks=cut.found(),
        speed=clock.speed(),
        refused=refused,
    )


class _Clock:
    """Seconds that encoding and decoding took."""

    def __init__(self) -> None:
        self.seconds = self._encoding = self._decoding = 0.0

    def encode(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self._encoding += time.perf_counter() - began
        return result

    def decode(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        self._decoding += time.perf_counter() - began
        return result

    def speed(self) -> dict[str, float]:
        return {
            "encode_x_real_time": self.seconds / max(self._encoding, 1e-9),
            "decode_x_real_time": self.seconds / max(self._decoding, 1e-9),
        }


class _Chunks:
    """Codes in chunks against those of the whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._whole = Tokenizer(tokenizer.codec, dataclasses.replace(tokenizer.config, chunk_s=1e9))
        self._bounded = tokenizer.is_bounded
        self._n_frames = self._n_codes = self._n_differing = 0

    def compare(self, reference: Float[np.ndarray, " s"], indices: np.ndarray, *, was_cut: bool) -> None:
        if not was_cut:
            return
        one = self._whole.encode(reference, sampling_rate=self._whole.sampling_rate).indices()
        self._n_frames += len(one)
        self._n_codes += one.size
        self._n_differing += int((one != indices).sum())

    def found(self) -> dict[str, float] | None:
        if not self._n_codes:
            return None
        share = self._n_differing / self._n_codes
        return {"n_frames": float(self._n_frames), "differing": share, "bounded": float(self._bounded)}


def _scores(
    tokenizer: Tokenizer,
    reference: Float[np.ndarray, " s"],
    made: Float[np.ndarray, " s"],
    config: CodecEvalConfig,
) -> dict[str, dict[str, float]]:
    """Numbers of one recording by system and metric."""
    real, rate = torch.from_numpy(reference), tokenizer.sampling_rate
    floor = griffin_lim.floor(real, rate, tokenizer.hop, seed=config.seed)
    found = {}
    for system, wave in zip(SYSTEMS, (torch.from_numpy(made), floor, torch.zeros_like(real)), strict=True):
        found[system] = metrics.reconstruction(real, wave, rate)
        if config.speech:
            found[system] |= metrics.speech(real, wave, rate)
    return found


def _summed_up(
    rows: Sequence[dict[str, Any]], config: CodecEvalConfig
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, Estimate]]]:
    """Means by system and metric, and the codec's minus each floor's."""
    means: dict[str, dict[str, Estimate]] = defaultdict(dict)
    above: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for system in SYSTEMS:
        for metric in dict.fromkeys(name for row in rows for name in row[system]):
            have = [row for row in rows if metric in row[system] and metric in row["codec"]]
            if not have:
                continue
            values = np.array([row[system][metric] for row in have])
            means[system][metric] = _mean(values, have, config)
            if system != "codec":
                codec = np.array([row["codec"][metric] for row in have])
                above[system][metric] = _mean(codec - values, have, config)
    return dict(means), dict(above)


def _mean(values: Float[np.ndarray, " n"], rows: Sequence[dict[str, Any]], config: CodecEvalConfig) -> Estimate:
    return bootstrap.interval(
        lambda draws: draws.total(values) / draws.size,
        [row["group"] for row in rows],
        n_resamples=config.n_resamples,
        seed=config.seed,
    )


def _to_json(tables: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict[str, float | None]]]:
    return {system: {name: each.to_json() for name, each in table.items()} for system, table in tables.items()}
