"""What the encoder saw, of every objective: from a tiny run's clips to the section of the page."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_run import RATE, tiny, write_songs

from birdjepa.data.loader import Clips, LoaderConfig
from birdjepa.models.waveform import WaveformConfig
from birdjepa.objectives import OBJECTIVES
from birdjepa.objectives.added import AddedConfig, AddedSigregConfig
from birdjepa.objectives.ajepa import AjepaConfig
from birdjepa.objectives.base import Objective
from birdjepa.objectives.diet import DietConfig
from birdjepa.objectives.lejepa import LejepaConfig
from birdjepa.objectives.masks import RandomMaskConfig
from birdjepa.objectives.views import ViewsConfig
from birdjepa.recipes.config import PretrainConfig
from birdjepa.recipes.pretrain import open_sources
from birdjepa.recipes.waveform_config import PretrainWaveformConfig
from birdjepa.report.build import build_report
from birdjepa.report.contents import Absent, ReportConfig, ReportContents, Seen, SeenPanel
from birdjepa.report.gather import NAMES
from birdjepa.report.gather_clips import scale_of
from birdjepa.report.gather_seen import look_at
from birdjepa.report.seen import LEADS
from birdjepa.train.config import TrainConfig

PANELS = {
    "lejepa": ["G1", "G2", "L1", "L2"],
    "diet": ["G1", "G2", "L1", "L2"],
    "pixio": ["visible", "drawn", "original"],
    "ajepa": ["context", "targets", "drawn"],
    "supervised": ["seen"],
}
N_STEPS = 10


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"), 12)


@pytest.fixture(scope="module")
def base(songs: Path) -> PretrainConfig:
    config = tiny(songs, Path("nowhere"), steps=N_STEPS)
    return dataclasses.replace(config, patch=dataclasses.replace(config.patch, mels=8))


def made(config: PretrainConfig) -> tuple[Clips, Objective]:
    clips = config.open_clips(open_sources(config))
    return clips, config.make_objective(clips).requires_grad_(False).eval()


def look(config: PretrainConfig, trained: int | Absent = N_STEPS, *, n_drawn: int = 16) -> Seen:
    clips, objective = made(config)
    return look_at(
        clips,
        objective,
        name=config.objective.name,
        seed=config.seed,
        n_steps=N_STEPS,
        trained=trained,
        config=ReportConfig(n_clips=2, n_drawn=n_drawn),
    )


def with_objective(base: PretrainConfig, name: str) -> PretrainConfig:
    """The tiny run with an objective, of views short enough for its clips."""
    if name == "lejepa":
        return base
    views = base.objective.views if isinstance(base.objective, LejepaConfig) else ViewsConfig()
    objective = DietConfig(views=views) if name == "diet" else OBJECTIVES[name]()
    return dataclasses.replace(base, objective=objective)


def panels_of(seen: Seen) -> list[list[SeenPanel]]:
    return [list(moment.panels) for clip in seen.clips for moment in clip.moments]


def test_every_objective_is_listed_here_and_says_what_to_look_for():
    assert PANELS.keys() == OBJECTIVES.keys()
    assert LEADS.keys() == set(NAMES.values())
    assert NAMES.keys() >= {"DaamConfig", "CodecObjectiveConfig"}  # runs on waveforms


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objectives_section_builds(name: str, base: PretrainConfig, contents: ReportContents):
    config = with_objective(base, name)
    seen = look(config)
    assert len(seen.clips) == 2
    for panels in panels_of(seen):
        assert [panel.name for panel in panels] == PANELS[name]
        assert all(panel.is_window == (name in ("lejepa", "diet")) for panel in panels)
    steps = [moment.step for moment in seen.clips[0].moments]
    assert steps == ([1, N_STEPS] if name == "ajepa" else [N_STEPS])
    _, objective = made(config)
    page = build_report(dataclasses.replace(contents, seen=seen, scale=scale_of(objective.encoder.config.log_mel)))
    section = page[page.index('<section id="views"') :].partition("</section>")[0]
    assert LEADS[name] in section
    assert section.count("<img") >= 2 * (1 + len(PANELS[name]))
    assert ('class="box' in section) == (name in ("lejepa", "diet"))
    assert (" hidden." in section) == (name in ("pixio", "ajepa"))
    assert ("newest checkpoint, after step 10" in section) == (name in ("pixio", "ajepa"))
    assert not re.search(r"\bnan\b", section, re.IGNORECASE)


def test_added_terms_are_looked_through(base: PretrainConfig):
    added = AddedConfig(sigreg=AddedSigregConfig(weight=0.1))
    config = dataclasses.replace(with_objective(base, "ajepa"), added=added)
    seen, plain = look(config), look(with_objective(base, "ajepa"))
    for one, other in zip(panels_of(seen), panels_of(plain), strict=True):
        for panel, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(panel.frames, same.frames)
    assert not isinstance(seen.drawing, Absent | None)


def test_targets_stand_in_one_picture_outlined_and_apart_from_the_context(base: PretrainConfig):
    for context, targets, drawn in panels_of(look(with_objective(base, "ajepa"))):
        shown = np.isfinite(targets.frames)
        assert not (np.isfinite(context.frames) & shown).any()
        outlined = np.zeros_like(shown)
        n_frames, n_mels = shown.shape
        for left, right, low, high in targets.outlines:
            outlined[round(left * n_frames) : round(right * n_frames), round(low * n_mels) : round(high * n_mels)] = (
                True
            )
        np.testing.assert_array_equal(outlined, shown)
        np.testing.assert_array_equal(np.isfinite(drawn.frames), shown | np.isfinite(context.frames))
        assert drawn.outlines == targets.outlines


def test_scattered_targets_are_one_picture_without_outlines(base: PretrainConfig):
    config = dataclasses.replace(base, objective=AjepaConfig(masks=RandomMaskConfig()))
    seen = look(config, n_drawn=0)
    assert isinstance(seen.drawing, Absent)
    for context, targets in panels_of(seen):
        assert targets.outlines == ()
        np.testing.assert_array_equal(np.isnan(context.frames), np.isfinite(targets.frames))


def test_without_a_checkpoint_nothing_is_drawn_and_masks_are_those_of_the_first_step(base: PretrainConfig):
    seen = look(with_objective(base, "ajepa"), Absent("the run has saved no checkpoint"))
    assert [moment.step for moment in seen.clips[0].moments] == [1]
    assert isinstance(seen.drawing, Absent)
    assert "no checkpoint" in seen.drawing.reason


def test_a_handful_of_recordings_leaves_none_to_fit(base: PretrainConfig, songs: Path):
    rows = songs.read_text().splitlines()[:2]
    few = songs.with_name("few.csv")
    few.write_text("\n".join(rows) + "\n")
    seen = look(dataclasses.replace(with_objective(base, "ajepa"), data=(str(few),)))
    assert isinstance(seen.drawing, Absent)
    assert "too few recordings" in seen.drawing.reason


def test_frames_of_waveforms_are_shown_as_context_and_targets_of_whole_clips(songs: Path):
    config = PretrainWaveformConfig(
        data=(str(songs),),
        encoder=WaveformConfig(preset="nano", sampling_rate=RATE),
        loader=LoaderConfig(clip_s=0.9, workers=0),
        train=TrainConfig(batch_size=4, accumulate=1),
    )
    clips = config.open_clips(open_sources(config))
    objective = config.make_objective(clips).requires_grad_(False).eval()
    seen = look_at(clips, objective, name="daam", seed=0, n_steps=10, trained=10, config=ReportConfig())
    for clip in seen.clips:
        [moment] = clip.moments
        assert [panel.name for panel in moment.panels] == ["context", "targets"]
        context, targets = (np.isfinite(panel.frames) for panel in moment.panels)
        assert (context ^ targets).all()
        assert not any(panel.is_window for panel in moment.panels)
