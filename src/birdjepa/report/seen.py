"""The section of what the encoder saw: training clips, the views or patches that it got, and what it had to predict."""

from collections.abc import Mapping

import numpy as np

from birdjepa.report.contents import Absent, Drawing, ReportContents, Scale, Seen, SeenClip, SeenMoment, SeenPanel
from birdjepa.report.html import Html, breakable, join, note, section, table, tag
from birdjepa.report.picture import Levels, annotated, legend, levels, panel_picture, view_picture
from birdjepa.report.probes import rate

PREDICTING = ("pixio", "ajepa", "codec")
"""Objectives whose pictures depend on trained weights."""
MOST_COLUMNS = 3
"""Pictures of whole clips beside each other."""
LEADS: Mapping[str, str] = {
    "lejepa": "Views of one clip (boxes) are pulled together, so each should hold some of what is worth hearing.",
    "diet": (
        "From each view (boxes) the encoder must tell which recording it is from: a view of mere background teaches it "
        "the microphone."
    ),
    "pixio": (
        "The encoder got the visible patches only, and a decoder drew the others: look whether calls go on where they "
        "were hidden, or just the background does."
    ),
    "ajepa": (
        "From the context the predictor had to say what the teacher says of the outlined blocks: look whether the "
        "context leaves a clue to them, and how the masks became harder."
    ),
    "daam": (
        "From the frames of the context the predictor had to say what the teacher says of the others: look whether the "
        "context leaves a clue to what was hidden."
    ),
    "codec": (
        "Beside each clip what the vocoder makes of its codes, as a picture only (buttons play the original): calls "
        "should be where they were."
    ),
    "supervised": (
        "Each clip as the encoder got it, with another one mixed in or parts wiped out: what its label names should "
        "still be there."
    ),
}
GENERAL = "What became of some training clips before the encoder saw them: what is worth hearing should still be there."


def seen_section(contents: ReportContents, first_sound: int) -> Html:
    """Sounds of the clips are numbered from first_sound on."""
    title = "What the encoder saw"
    seen = contents.seen
    if isinstance(seen, Absent) or contents.scale is None:
        reason = seen.reason if isinstance(seen, Absent) else "no front end is at hand"
        return section("views", title, GENERAL, note(f"Nothing to show: {reason}."))
    shown = [_clip(clip, contents.scale, first_sound + i, seen.n_steps) for i, clip in enumerate(seen.clips)]
    hidden = any(not np.isfinite(panel.frames).all() for clip in seen.clips for panel in _panels(clip))
    origin = note(_origin(seen, contents), "Shades are the same within a clip: ", legend(hidden=hidden), ".")
    return section("views", title, LEADS.get(seen.objective, GENERAL), *_drawing(seen.drawing), *shown, origin)


def _clip(seen: SeenClip, scale: Scale, sound: int, n_steps: int) -> Html:
    panels = _panels(seen)
    shades = levels(np.concatenate([seen.clip.frames, *(panel.frames for panel in panels)]))
    label = (tag("b", {}, seen.clip.label), " ") if seen.clip.label else ()
    heading = tag("figcaption", {}, *label, tag("span", {"class": "path"}, breakable(seen.clip.recording)))
    large = annotated(seen.clip, panels, shades, scale, sound)
    windows = [view_picture(panel, shades, sound) for panel in panels if panel.is_window]
    views = [tag("div", {"class": "views"}, *windows)] if windows else []
    columns = min(MOST_COLUMNS, max(sum(not panel.is_window for panel in moment.panels) for moment in seen.moments))
    several = len(seen.moments) > 1
    rows = [
        part
        for moment in seen.moments
        for part in _moment(
            moment, shades, sound, columns, f"Masks of step {moment.step} of {n_steps}" if several else ""
        )
    ]
    return tag("figure", {"class": "clip"}, join((heading, large, *views, *rows)))


def _moment(moment: SeenMoment, shades: Levels, sound: int, columns: int, heading: str) -> list[Html]:
    """The pictures of whole clips at one step, under its heading where there are several steps."""
    whole = [panel for panel in moment.panels if not panel.is_window]
    if not whole:
        return []
    when = f", masks of step {moment.step}" if heading else ""
    pictures = [panel_picture(panel, shades, sound, when) for panel in whole]
    head = [tag("p", {"class": "moment"}, heading)] if heading else []
    return [*head, tag("div", {"class": "panels", "style": f"--columns:{columns}"}, *pictures)]


def _panels(clip: SeenClip) -> list[SeenPanel]:
    """Of all moments."""
    return [panel for moment in clip.moments for panel in moment.panels]


def _origin(seen: Seen, contents: ReportContents) -> str:
    """Which clips, which step's chance, whose weights."""
    steps = [moment.step for moment in seen.clips[0].moments] if seen.clips else [1]
    when = " and ".join(f"step {step}" for step in steps)
    told = (
        f"Clips of the run's first batch. What was drawn by chance (windows, masks, augmentation) is that of {when}, "
        f"drawn again from seed {contents.config.get('seed')} on a CPU; a run on a GPU drew other numbers. "
    )
    if any(panel.is_window for clip in seen.clips for panel in _panels(clip)):
        told += (
            "Solid boxes G: global views; dashed boxes L: local ones. Under each clip its views, augmented; their "
            "buttons play the sound before augmentation. "
        )
    if seen.objective in PREDICTING:
        told += (
            f"Predictions by untrained weights: {seen.trained.reason}. "
            if isinstance(seen.trained, Absent)
            else f"Predictions by the weights of the newest checkpoint, after step {seen.trained}. "
        )
    return told


def _drawing(drawing: Drawing | Absent | None) -> list[Html]:
    """How much of the drawn spectrograms is the predictor's own."""
    if drawing is None:
        return []
    if isinstance(drawing, Absent):
        return [note(f"Predictions were not drawn: {drawing.reason}.")]
    if drawing.lead.low > 0:
        verdict = "tells more about the hidden sound than an untrained predictor does"
    elif drawing.lead.high < 0:
        verdict = "tells less about the hidden sound than an untrained predictor does"
    else:
        verdict = "does not clearly tell more about the hidden sound than an untrained predictor does"
    finding = f"What was predicted {verdict}: R² differs by {rate(drawing.lead)}."
    rows = [(name, rate(score)) for name, score in drawing.scores.items()]
    told = (
        f"R² of target patches as a ridge regression draws them, fitted to {drawing.n_fitted} clips of this run's data "
        f"and judged on {drawing.n_held} clips of recordings that it never saw (the encoder did), with 95% intervals "
        "over recordings. 0 is the mean patch, 1 the patch itself; much of it is how loud a clip is in each band."
    )
    return [tag("p", {"class": "finding"}, finding), table(("drawn from", "R²"), rows, numeric=(1,)), note(told)]
