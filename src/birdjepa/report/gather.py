"""A run folder into report contents: the one function that the recipes call, with what they have opened."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birdjepa.core.errors import UsageError, UserError
from birdjepa.core.failures import Failure
from birdjepa.data.loader import Batches
from birdjepa.data.manifest import Manifest
from birdjepa.models.codec import Codec
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.base import Objective
from birdjepa.objectives.codec import CodecObjectiveConfig
from birdjepa.objectives.daam import DaamConfig
from birdjepa.report import gather_run
from birdjepa.report.contents import Absent, Reconstructed, ReportConfig, ReportContents, Seen, SourceSummary
from birdjepa.report.gather_clips import scale_of
from birdjepa.report.gather_data import summarise
from birdjepa.report.gather_neighbourhood import Neighbourhood, look_around
from birdjepa.report.gather_samples import listen
from birdjepa.report.gather_seen import look_at

NAMES = {kind.__name__: kind.name for kind in (*OBJECTIVES.values(), DaamConfig, CodecObjectiveConfig)}
"""Of objectives, by their configuration's kind."""
UNTRAINED = Absent("the run has saved no checkpoint")


def gather(
    folder: Path,
    *,
    sources: Sequence[Manifest],
    clips: Batches | None,
    objective: Objective | None,
    encoder: SoundEncoder | None,
    codec: Codec | None = None,
    trained: int | Absent = UNTRAINED,
    config: ReportConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReportContents:
    """Everything that a report of the run says.

    Reads the folder, the sources' headers, some batches of clips and up to n_points stretches. sources, clips and
    objective are the run's own; trained is the step of the checkpoint that the objective's weights were taken from, or
    why they are untrained. encoder is the exported one, None where there is none yet; codec is the codec of a run that
    learns one, as far as it is at hand. Without sources and clips the parts that need sound say so.
    `progress(done, total)` is called while a source's rows are embedded.

    Raises:
      UsageError: if the folder holds no run, or one of its files is damaged.
    """
    config = config or ReportConfig()
    described = gather_run.read_json(folder / "config.json")
    if not isinstance(described.get("config"), dict):
        raise UsageError(f"{folder}: no run here (no config.json with a configuration)")
    seed = int(described["config"].get("seed", 0))
    provenance = gather_run.read_json(folder / "provenance.json")
    started, finished = gather_run.moments_of(folder, provenance)
    kind = NAMES.get(str((described["config"].get("objective") or {}).get("kind")), "")
    around = _around(sources, encoder, config, seed, progress, learns_codec=kind == CodecObjectiveConfig.name)
    reconstructed = None
    if kind == CodecObjectiveConfig.name:
        reconstructed = listen(folder, codec, clips, config) if codec else Absent("its parts are not at hand")
    is_heard = isinstance(reconstructed, Reconstructed) and not isinstance(reconstructed.clips, Absent)
    shown = encoder or (objective.encoder if objective else codec.encoder if codec else None)
    return ReportContents(
        name=folder.resolve().name,
        config_hash=str(described.get("hash", "")),
        config=described["config"],
        provenance=provenance,
        started=started,
        finished=finished,
        metrics=gather_run.metrics_of(folder),
        probes=gather_run.probes_of(folder),
        scale=scale_of(shown.config.log_mel) if shown else None,
        seen=(
            Absent("its sound tells more")
            if is_heard
            else _seen(clips, objective, described["config"], kind, seed, trained, config)
        ),
        reconstructed=reconstructed,
        map=around.map,
        queries=around.queries,
        heard=around.heard,
        sources=_summaries(sources, provenance),
        failures=_failures(folder, around.failures, sources),
    )


def _seen(
    clips: Batches | None,
    objective: Objective | None,
    described: dict[str, Any],
    name: str,
    seed: int,
    trained: int | Absent,
    config: ReportConfig,
) -> Seen | Absent:
    if clips is None or objective is None:
        return Absent("the recordings are not at hand")
    fork = (described.get("schedule") or {}).get("fork") or {}
    n_steps = int(fork.get("planned") or (described.get("train") or {}).get("steps") or 1)
    try:
        return look_at(clips, objective, name=name, seed=seed, n_steps=n_steps, trained=trained, config=config)
    except UserError as error:
        return Absent(str(error))


def _around(
    sources: Sequence[Manifest],
    encoder: SoundEncoder | None,
    config: ReportConfig,
    seed: int,
    progress: Callable[[int, int], None] | None,
    *,
    learns_codec: bool,
) -> Neighbourhood:
    if learns_codec:
        reason = "the encoder of a codec does not learn; the report of the run that made it has its map"
        return Neighbourhood(Absent(reason), Absent(reason), (), [])
    if encoder is None or not sources:
        reason = (
            "the recordings are not at hand" if encoder else "the run has exported no encoder yet: it has not finished"
        )
        return Neighbourhood(Absent(reason), Absent(reason), (), [])
    return look_around(sources, encoder, config, seed=seed, progress=progress)


def _summaries(sources: Sequence[Manifest], provenance: dict[str, Any]) -> tuple[SourceSummary, ...]:
    noted = provenance.get("data")
    noted = noted if isinstance(noted, dict) else {}
    return tuple(summarise(source, str(noted.get(source.name, ""))) for source in sources)


def _failures(folder: Path, more: Sequence[Failure], sources: Sequence[Manifest]) -> tuple[Failure, ...]:
    """What the run refused, then what only the report met; paths relative to their source."""
    noted = gather_run.failures_of(folder)
    known = {failure.path for failure in noted}
    roots = [f"{source.root}/" for source in sources]
    met = (*noted, *(failure for failure in more if failure.path not in known))
    root_of = (next((root for root in roots if failure.path.startswith(root)), "") for failure in met)
    return tuple(each._replace(path=each.path.removeprefix(root)) for each, root in zip(met, root_of, strict=True))
