"""Annotated songs from a label file: which recordings, what is in them, and their frames by a model.

Any label file that `audio.labels` reads will do: one table for all recordings, or one file for each.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from birdjepa.audio import decode
from birdjepa.audio.labels import Label
from birdjepa.audio.source import Source
from birdjepa.benchmark.frame_embedders import FrameEmbedder
from birdjepa.benchmark.frames import FrameSequence, Song
from birdjepa.core.errors import LabelError, UsageError


def songs_of(
    labels: Mapping[str, Sequence[Label]], folder: Path | str, names: Sequence[str], *, without: Collection[str] = ()
) -> list[Song]:
    """The songs of these names, which are their paths below the folder.

    labels is what `audio.labels.read_recordings` gives. Labels in `without` mark no syllable: those stretches are not
    scored. A segment may end up to 10 ms after its recording, as rounding has it, and is cut there.

    Raises:
      UsageError: if a name has no labels, or only ones that are left out.
      LabelError: naming the recording, if a segment lies outside it.
      AudioError: if a recording cannot be opened.
    """
    songs = []
    for name in names:
        given = labels.get(name, ())
        if all(label.label in without for label in given):
            raise UsageError(f"{name}: no annotation in the label file; leave the recording out or annotate it")
        kept = [label for label in given if label.label not in without]
        passed = [label for label in given if label.label in without]
        songs.append(song_of(name, Path(folder) / name, kept, passed))
    return songs


def song_of(name: str, source: Source, labels: Sequence[Label], unscored: Sequence[Label]) -> Song:
    """The song of a recording. A segment may end up to 10 ms after it, as rounding has it, and is cut there.

    Raises:
      LabelError: naming the recording, if a segment lies outside it.
      AudioError: if the recording cannot be opened.
    """
    duration_s = decode.probe(source).duration_s
    if late := [label for label in (*labels, *unscored) if label.offset_s > duration_s + 0.01]:
        reason = f"label {late[0].label!r} ends at {late[0].offset_s:g} s, the recording at {duration_s:g} s"
        raise LabelError(str(source), late[0].onset_s, reason)
    kept, passed = (
        tuple(label._replace(offset_s=min(label.offset_s, duration_s)) for label in group)
        for group in (labels, unscored)
    )
    return Song(name, duration_s, kept, passed)


def embed_songs(embedder: FrameEmbedder, folder: Path | str, songs: Sequence[Song]) -> list[FrameSequence]:
    """The frames of each song, read at the rate of the embedder.

    Raises:
      AudioError: if a recording cannot be decoded.
    """
    return [embedder.embed(decode.read_clip(Path(folder) / song.name, embedder.sampling_rate)) for song in songs]
