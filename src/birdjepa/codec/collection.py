"""Whole collections: recordings to a folder of codes, and such a folder to recordings again, both resumable.

`tokenize` writes, for every recording of a manifest, `OUT/its/own/path.wav.bjt`; then `tokens.csv`, the table of them,
and `failures.csv`, where some were refused. `detokenize` writes one sound file for each file of codes. A file is whole
or absent and says what it was made of, so a job that was stopped goes on where it was, whatever stopped it.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from jaxtyping import Float

from birdjepa.codec.container import SUFFIX, Codes, read_codes, write_codes
from birdjepa.codec.folder import filling, place_of, read_key
from birdjepa.codec.tokenizer import Tokenizer
from birdjepa.core import config as configs
from birdjepa.core import failures, files
from birdjepa.core.errors import CodeError, InputError, Interrupted, StorageError, UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.manifest import Manifest
from birdjepa.embed.collection import Progress

INDEX = "tokens.csv"
COLUMNS = ("path", "codes", "n_frames", "n_samples", "seconds")
"""Of the index: the recording as the manifest spells it, its file of codes, and how long both are."""
SoundFormat = Literal["wav", "wav-float", "flac"]
FORMATS: dict[SoundFormat, tuple[str, str, str]] = {
    "wav": (".wav", "WAV", "PCM_16"),
    "wav-float": (".wav", "WAV", "FLOAT"),
    "flac": (".flac", "FLAC", "PCM_16"),
}
"""Suffix, container and coding."""
_LARGEST_WAV = 2**32 - 2**16
"""Bytes of sound; larger ones are written as RF64."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a collection."""

    out: Path
    n_files: int
    """Recordings, or files of codes, that there were."""
    n_resumed: int
    """Those of them that were done already."""
    seconds: float
    """Sound of all that is in the folder now."""
    n_frames: int
    failures: Path | None
    """Table of the refused; None if there are none."""
    n_refused: int

    @property
    def n_done(self) -> int:
        return self.n_files - self.n_refused


class _Job:
    """What both jobs count and tell, and how they are stopped."""

    def __init__(
        self, out: Path, n_files: int, progress: Callable[[Progress], None] | None, stop: Callable[[], bool]
    ) -> None:
        self.out, self.n_files = out, n_files
        self.refused: list[Failure] = []
        self.n_done = self.n_resumed = self.n_chunks = self.n_frames = 0
        self.seconds = self.worked_s = 0.0
        self._progress, self._stop = progress, stop

    def check(self) -> None:
        """Before each chunk."""
        if self._stop():
            kept = f"{self.n_done} of {self.n_files} files are done and kept in {self.out}"
            raise Interrupted(f"stopped: {kept}; run the same command again to go on")
        self.n_chunks += 1

    def refuse(self, path: str, stage: str, error: InputError) -> None:
        self.refused.append(Failure(path, stage, error.offset_s, error.reason))
        self._count()

    def add(self, codes: Codes, *, is_new: bool) -> None:
        self.n_frames, self.seconds = self.n_frames + codes.n_frames, self.seconds + codes.duration_s
        self.n_resumed += not is_new
        self.worked_s += codes.duration_s if is_new else 0.0
        self._count()

    def _count(self) -> None:
        self.n_done += 1
        if self._progress is not None:
            self._progress(Progress(self.n_done, self.n_files, self.n_chunks, self.worked_s))

    def finish(self, listed: list[Failure]) -> Summary:
        """Writes failures.csv, and removes one of an earlier run where there are none any more."""
        table, refused = self.out / failures.NAME, listed + self.refused
        if refused:
            failures.write(table, refused)
        else:
            table.unlink(missing_ok=True)
        return Summary(
            out=self.out,
            n_files=self.n_files + len(listed),
            n_resumed=self.n_resumed,
            seconds=self.seconds,
            n_frames=self.n_frames,
            failures=table if refused else None,
            n_refused=len(refused),
        )


def tokenize(
    tokenizer: Tokenizer,
    manifest: Manifest,
    out: Path | str,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Codes of every recording of a manifest (of labelled segments: of the recordings that they are in).

    A recording is not encoded again where its codes are there, whole, and not older than it. `stop` is asked before
    each chunk.

    Raises:
      UsageError: if the folder belongs to another codec, other settings or other data.
      Interrupted: when stop() says so; finished files are kept.
    """
    out, recordings = Path(out), manifest.recordings()
    identity = {
        "verb": "tokenize",
        "codec": tokenizer.sha256,
        "settings": configs.to_json(tokenizer.config),
        "data": str(Path(manifest.name)),
    }
    with filling(out, identity, "tokenizing"):
        job, rows = _Job(out, len(recordings), progress, stop), []
        for row, key in enumerate(recordings.keys):
            name = str(place_of(key)) + SUFFIX
            codes = _still_good(out / name, recordings, row, tokenizer)
            is_new = codes is None
            if codes is None:
                try:
                    source = recordings.source(row)
                    codes = tokenizer.encode_recording(source, source=key, before_chunk=job.check)
                except InputError as error:
                    (out / name).unlink(missing_ok=True)  # of what the recording was before
                    job.refuse(key, "decode", error)
                    continue
                write_codes(out / name, codes)
            rows.append(_row(key, name, codes))
            job.add(codes, is_new=is_new)
        files.write_csv(out / INDEX, COLUMNS, rows)
        return job.finish(failures.left_out(recordings.refused))


def detokenize(
    tokenizer: Tokenizer,
    tokens: Path | str,
    out: Path | str,
    *,
    kind: SoundFormat = "wav",
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Sound of every file of codes below a folder, or of one file: mono, at the codec's rate, of exact length.

    `its/own/path.wav.bjt` becomes `its/own/path.wav`, another suffix stays before the new one (`path.mp3.wav`). A file
    is not made again where it is there, of the right length, and not older than its codes.

    Raises:
      UsageError: if there are no codes, all are another codec's, or the folder belongs to something else.
      Interrupted: when stop() says so; finished files are kept.
    """
    tokens, out = Path(tokens), Path(out)
    names = _sound_names(tokens, FORMATS[kind][0])
    made_by = str(read_key(tokens).get("codec", tokenizer.sha256))
    if made_by != tokenizer.sha256:
        raise UsageError(
            f"{tokens}: was made by codec {made_by[:12]}, and this one is {tokenizer.sha256[:12]}: "
            "take the codec it is of"
        )
    with filling(out, {"verb": "detokenize", "codec": tokenizer.sha256, "format": kind}, "detokenizing"):
        job = _Job(out, len(names), progress, stop)
        for path, name in names.items():
            try:
                codes = read_codes(path)
                tokenizer.check(codes, str(path))
            except CodeError as error:
                (out / name).unlink(missing_ok=True)
                job.refuse(str(path), "decode", error)
                continue
            is_new = not _is_sound_of(out / name, path, codes)
            if is_new:
                _write_sound(out / name, tokenizer, codes, kind, job.check)
            job.add(codes, is_new=is_new)
        return job.finish([])


def _row(key: str, name: str, codes: Codes) -> dict[str, Any]:
    values = (key, name, codes.n_frames, codes.n_samples, f"{codes.duration_s:.6f}")
    return dict(zip(COLUMNS, values, strict=True))


def _still_good(path: Path, recordings: Manifest, row: int, tokenizer: Tokenizer) -> Codes | None:
    """The codes of a recording that an earlier run has made of it as it is now, if there are any."""
    try:
        made = path.stat().st_mtime_ns
        if recordings.shards is None and recordings.path(row).stat().st_mtime_ns > made:
            return None
        codes = read_codes(path)
        tokenizer.check(codes)
    except (OSError, CodeError):
        return None
    return codes if codes.source == recordings.keys[row] else None


def _sound_names(tokens: Path, suffix: str) -> dict[Path, Path]:
    """Files of codes in order, and what their sound is called in the output folder.

    Raises:
      UsageError: if there are none.
    """
    found = sorted(tokens.rglob(f"*{SUFFIX}")) if tokens.is_dir() else [tokens] if tokens.is_file() else []
    found = [path for path in found if path.is_file()]
    if not found:
        raise UsageError(f"{tokens}: no files of codes ({SUFFIX}) there; `birdjepa tokenize` writes them")
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    for path in found:
        inside = path.relative_to(tokens) if tokens.is_dir() else Path(path.name)
        whole = inside.with_name(inside.name.removesuffix(SUFFIX) or inside.name)
        name = whole if whole.suffix.lower() == suffix else whole.with_name(whole.name + suffix)
        while name in taken:  # a.mp3.wav.bjt beside a.mp3.bjt
            name = name.with_name(name.name + suffix)
        taken.add(name)
        names[path] = name
    return names


def _is_sound_of(path: Path, codes_path: Path, codes: Codes) -> bool:
    try:
        if path.stat().st_mtime_ns < codes_path.stat().st_mtime_ns:
            return False
        info = soundfile.info(path)
    except (OSError, soundfile.SoundFileError):
        return False
    return (info.frames, info.samplerate) == (codes.n_samples, codes.sampling_rate)


def _write_sound(
    path: Path, tokenizer: Tokenizer, codes: Codes, kind: SoundFormat, before_block: Callable[[], None]
) -> None:
    """Raises StorageError where it cannot be written, and whatever before_block raises."""
    _, container, coding = FORMATS[kind]
    if container == "WAV" and codes.n_samples * (4 if coding == "FLOAT" else 2) > _LARGEST_WAV:
        container = "RF64"
    opened = functools.partial(soundfile.SoundFile, samplerate=codes.sampling_rate, channels=1)
    try:
        with (
            files.replacing(path) as temporary,
            opened(temporary, "w", format=container, subtype=coding) as file,
        ):
            for block in tokenizer.decode_blocks(codes):
                before_block()
                file.write(block if coding == "FLOAT" else _to_16_bit(block))
    except soundfile.SoundFileError as error:
        raise StorageError(
            f"{path} cannot be written: {error}; {files.free_bytes(path.parent)} bytes are free"
        ) from None


def _to_16_bit(samples: Float[np.ndarray, " s"]) -> np.ndarray:
    """As libsndfile reads it: an integer is that many 32768ths."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
