"""The section of views: training clips as spectrograms, the windows of their views, and the views as they were seen."""

import numpy as np

from birdjepa.report.contents import Absent, ReportContents, Scale, SeenClip
from birdjepa.report.html import Html, breakable, join, note, section, tag
from birdjepa.report.picture import annotated, legend, levels, view_picture


def seen_section(contents: ReportContents, first_sound: int) -> Html:
    """Sounds of the clips are numbered from first_sound on."""
    title = "What the encoder saw"
    lead = "Views of one clip (boxes) are pulled together, so each should hold some of what is worth hearing."
    if isinstance(contents.seen, Absent) or contents.scale is None:
        reason = contents.seen.reason if isinstance(contents.seen, Absent) else "no front end is at hand"
        return section("views", title, lead, note(f"Nothing to show: {reason}."))
    shown = [_clip(seen, contents.scale, first_sound + i) for i, seen in enumerate(contents.seen)]
    origin = (
        "Clips of the run's first batch and their views at step 1, drawn again from seed "
        f"{contents.config.get('seed')} on a CPU (a run on a GPU drew other windows). Solid boxes G: global views; "
        "dashed boxes L: local ones. Under each clip its views, augmented; their buttons play the sound before "
        "augmentation. Shades are the same within a clip: "
    )
    return section("views", title, lead, *shown, note(origin, legend(), "."))


def _clip(seen: SeenClip, scale: Scale, sound: int) -> Html:
    shades = levels(np.concatenate([seen.clip.frames, *(view.frames for view in seen.views)]))
    label = (tag("b", {}, seen.clip.label), " ") if seen.clip.label else ()
    heading = tag("figcaption", {}, *label, tag("span", {"class": "path"}, breakable(seen.clip.recording)))
    views = tag("div", {"class": "views"}, *(view_picture(view, shades, sound) for view in seen.views))
    return tag(
        "figure", {"class": "clip"}, join((heading, annotated(seen.clip, seen.views, shades, scale, sound), views))
    )
