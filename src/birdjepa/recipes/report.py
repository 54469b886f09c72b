"""The report job: opens what a run was made from, as far as it is still there, and writes report.html."""

from collections.abc import Callable
from pathlib import Path

from birdjepa.core.errors import InputError, UserError
from birdjepa.core.telling import tenths
from birdjepa.data.sources import Manifest
from birdjepa.models.encoder import Encoder, load
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.pretrain import make_clips, make_objective, open_sources
from birdjepa.recipes.run_folder import read_config
from birdjepa.report.build import write_report
from birdjepa.report.contents import ReportConfig
from birdjepa.report.gather import gather


def report(folder: Path, config: ReportConfig, say: Callable[[str], None]) -> Path:
    """Writes the run's report.html with whatever is at hand: the encoder once exported, recordings while they last.

    Raises:
      UsageError: if the folder holds no run.
    """
    run = read_config(PretrainConfig, folder)
    sources = _sources_at_hand(run, say)
    encoder = load(folder / "encoder") if (folder / "encoder" / "config.json").exists() else None
    clips = make_clips(run, sources) if sources else None
    objective = make_objective(run, _twin(run), clips) if clips else None
    progress = tenths(say, "rows embedded for the report")
    contents = gather(
        folder, sources=sources, clips=clips, objective=objective, encoder=encoder, config=config, progress=progress
    )
    return write_report(folder, contents)


def _sources_at_hand(run: PretrainConfig, say: Callable[[str], None]) -> list[Manifest]:
    """The run's sources, or none when one of them has gone: a report without sound is better than none."""
    try:
        return open_sources(run)
    except (UserError, InputError) as error:
        say(f"the recordings are not at hand, so the report shows none: {error}")
        return []


def _twin(run: PretrainConfig) -> Encoder:
    """An encoder of the run's shape; only its front end is used, to draw views."""
    return run.encoder_config().build().initialise(run.seed)
