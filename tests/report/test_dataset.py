"""The page of a data set: all that was found is in it, once, whatever the labels are called, and it draws."""

import dataclasses
import html
import re

import numpy as np
import pytest

from birdjepa.audio.logmel import at_rate
from birdjepa.data.stats import DataStats, Example, Loudness, Parts, StatsConfig
from birdjepa.report.bars import bar_list, histogram, ranks
from birdjepa.report.dataset import dataset_page, length_text, warnings

HOSTILE = '<script>alert("x")</script>'


def made(**changes):
    rng = np.random.default_rng(0)
    front_end = at_rate(16_000)
    frames = rng.normal(-60, 10, (100, front_end.n_mels)).astype(np.float32)
    cut = frames.copy()
    cut[60:] = np.nan
    found = DataStats(
        name="songs/m.csv",
        config=StatsConfig(),
        n_rows=12,
        n_recordings=10,
        duration_s=np.geomspace(0.5, 5000, 10),
        durations_from="headers",
        n_headers=10,
        sampling_rates={"16 kHz": 9, "44.1 kHz": 1},
        channels={"1": 9, "6": 1},
        formats={"WAV/PCM_16": 10},
        loudness=Loudness(
            rms_db=rng.normal(-30, 5, 10), peak_db=rng.normal(-10, 3, 10), quiet=0.25, n_silent=2, n_clipped=3, n=12
        ),
        labels={"robin": 9, HOSTILE: 3},
        n_unlabelled=0,
        n_multilabel=1,
        parts=(
            Parts(
                column="split",
                rows={"train": 8, "test": 3, "": 1},
                groups={"train": 4, "test": 2, "": 1},
                classes={"train": 2, "test": 1, "": 1},
                shared={("train", "test"): 1, ("test", "train"): 1},
                n_crossing=1,
                n_crossing_rows=5,
                crossing=(("bird 7", ("test", "train")),),
            ),
        ),
        examples=(
            Example(label="robin", recording="a/1.wav", start_s=0.0, span=(0.25, 0.5), frames=frames),
            Example(label=HOSTILE, recording=f"a/{HOSTILE}.wav", start_s=1.0, span=None, frames=cut),
        ),
        front_end=front_end,
        refused=(("a/9.wav", "not audio: a web page"),),
    )
    return dataclasses.replace(found, **changes)


def test_what_was_found_is_in_the_page():
    page = dataset_page(made())
    for text in ("robin", "bird 7", "16 kHz", "6 channels", "mono", "not audio: a web page", "WAV/PCM_16", "25.0%"):
        assert text in page
    assert "1 groups lie in several values of &#x27;split&#x27; (5 rows)" in page
    assert "left:25.00%;width:25.00%" in page
    assert page == dataset_page(made())


def test_nothing_in_the_data_becomes_code_and_pictures_have_words():
    page = dataset_page(made())
    assert HOSTILE not in page
    assert html.escape(HOSTILE) in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) >= 3
    assert all("alt=" in image and "data:image/png" in image for image in images)
    svgs = re.findall(r"<svg[^>]*>", page)
    assert len(svgs) == 3
    assert all("aria-label=" in svg and 'role="img"' in svg for svg in svgs)
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_warnings_name_what_is_odd_and_nothing_else():
    told = " ".join(warnings(made()))
    for text in ("'split'", "Sampling rates differ", "1 of 2 classes", "25% of the stretches", "2 of the 12", "1 rows"):
        assert text in told
    loudness = dataclasses.replace(made().loudness, n_silent=0, n_clipped=0)
    fine = made(
        sampling_rates={"16 kHz": 10}, loudness=loudness, labels={"robin": 9}, parts=(), refused=(), examples=()
    )
    assert warnings(fine) == []
    assert "Nothing odd was found" in dataset_page(fine)


def test_a_bare_data_set_has_a_page():
    nothing = np.zeros(0)
    loudness = Loudness(rms_db=nothing, peak_db=nothing, quiet=0.0, n_silent=0, n_clipped=0, n=0)
    bare = made(
        duration_s=nothing, n_headers=0, sampling_rates={}, channels={}, formats={}, loudness=loudness, labels={},
        parts=(), examples=(), refused=(),
    )  # fmt: skip
    page = dataset_page(bare)
    assert "There are no labels" in page
    assert "No example could be read" in page


def test_many_classes_are_ranked():
    labels = {f"class {i}": 200 - i for i in range(200)}
    page = dataset_page(made(labels=labels, examples=()))
    assert "The 20 commonest" in page
    assert "class 199" in page
    assert page.count('class="bars"') == 5  # rates, formats, channels, both ends


def test_bars_are_as_long_as_their_counts():
    widths = re.findall(r"width:([\d.]+)%", bar_list({"a": 10, "b": 5, "c": 0}))
    assert widths == ["100.0", "50.0", "0.4"]


def test_a_histogram_counts_every_value_once():
    values = np.concatenate([np.geomspace(0.1, 1000, 500), [np.nan, np.inf]])
    drawn = histogram(values, "length", length_text, log=True)
    counts = [int(n.replace(",", "")) for n in re.findall(r": ([\d,]+)</title>", drawn)]
    assert sum(counts) == 500
    assert max(counts) < 2.5 * min(counts)
    assert "All 3: 2 s" in histogram(np.full(3, 2.0), "length", length_text)
    assert "Nothing is known" in histogram(np.zeros(0), "length", length_text)


def test_ranks_fall():
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", ranks([100, 10, 10, 1], "rows"))]
    assert heights == sorted(heights)
    assert len(set(heights)) == 3


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.05, "50 ms"), (2.0, "2 s"), (119.0, "119 s"), (600.0, "10 min"), (36_000.0, "10.0 h")]
)
def test_lengths_read_well(seconds, text):
    assert length_text(seconds) == text
