"""What a codec sounds like: players, pictures, distances and rates are in the page, and what is missing says why."""

import dataclasses
import re

import pytest
from test_build import Page

from birdjepa.report.build import build_report
from birdjepa.report.contents import Absent, CodeUse, Look, Reconstructed, ReportContents, SampleClip
from birdjepa.report.gather_samples import chosen
from birdjepa.report.samples import heard_of, samples_section

RATES = {"frame_hz": 12.5, "tokens_per_s": 237.5, "nominal_bit_s": 3200.0, "stored_bit_s": 3800.0}
USE = {"n_frames": 5000.0, "least_used": 0.75, "level_bits": 1.9, "group_bits": 9.0}
USE |= {"entropy_bit_s": 3040.0, "entropy_bit_s_packed": 2137.5}


@pytest.fixture(scope="module")
def run(contents: ReportContents) -> ReportContents:
    """Of a codec, with two clips that were looked at three times."""
    nothing = Absent("a codec")
    clips = tuple(
        SampleClip(heard, tuple(Look(step, heard, mel + i) for step, mel in ((0, 6.0), (500, 4.0), (900, 2.5))))
        for i, heard in enumerate(contents.heard[:2])
    )
    made = Reconstructed(
        clips=clips, rates=RATES, levels=(4,) * 128, used=CodeUse(n_clips=16, levels_used=0.875, summary=USE)
    )
    rows = tuple(
        {"step": step, "loss": 10.0, "sample_mel": mel, "waveform": 0.1, **more}
        for step, mel, more in ((0, 6.5, {}), (500, 4.5, {"adversarial": 1.0}), (900, 3.0, {"adversarial": 0.5}))
    )
    return dataclasses.replace(
        contents, reconstructed=made, seen=nothing, map=nothing, queries=nothing, heard=(), metrics=rows, probes=(),
        config={"encoder": "runs/a/encoder", "objective": {"kind": "CodecObjectiveConfig"}, "vocoder": {"preset": "x"}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(run: ReportContents) -> str:
    return build_report(run)


def text_of(contents: ReportContents) -> str:
    return "".join(Page(build_report(contents)).text)


def test_each_look_has_a_player_a_picture_its_step_and_its_distance(page: str):
    read = Page(page)
    buttons = [attributes for tag, attributes in read.elements if attributes.get("class") == "play" and tag == "button"]
    assert [each["data-sound"] for each in buttons] == [str(number) for number in range(8)]
    assert page.count("data:audio/") == 8
    assert len([tag for tag, _ in read.elements if tag == "img"]) >= 8
    text = "".join(read.text)
    for told in ("step 0 mel distance 6.000", "step 500 mel distance 4.000", "step 900 mel distance 3.500"):
        assert told in text
    assert "The mel distance fell: 6.5 after step 0, 3 after step 900." in text
    assert "should come nearer to the original" in text


def test_rates_and_use_of_the_codes_are_in_a_table(page: str):
    cells = re.findall(r'<td>([^<]*)</td><td class="number">([^<]*)</td>', page)
    found = dict(cells)
    assert found["frames a second (Hz)"] == "12.5"
    assert found["packed codes a second, of 128 dimensions of 4 levels"] == "237.5"
    assert found["bit a second, levels equally likely"] == "3200"
    assert found["levels used, in the least used dimension"] == "75%"
    assert found["levels used, mean over dimensions"] == "88%"
    assert found["entropy in bit a second, each dimension by itself"] == "3040"
    assert "Counted on 5,000 frames of 16 clips" in "".join(Page(page).text)


def test_the_head_speaks_of_the_codec_and_not_of_probes(page: str):
    text = "".join(Page(page).text)
    assert "900 steps, loss 10 → 10 (adversarial terms joined it at step 500)." in text
    assert "Mel distance of its samples 6.5 → 3: lower is better, 0 is a copy." in text
    assert "birdjepa codec eval RUN/codec DATA" in text
    assert "Not probed yet" not in text
    assert "runs/a/encoder, fixed" in text
    assert "bit/s, 237.5 packed codes/s" in text


def test_sections_that_say_nothing_of_a_codec_are_left_out(page: str, run: ReportContents):
    ids = set(Page(page).ids)
    assert {"curves", "samples", "data", "origin"} <= ids
    assert not {"probe", "views", "map", "neighbours"} & ids
    silent = dataclasses.replace(run, reconstructed=None)
    assert "samples" not in Page(build_report(silent)).ids


def test_what_is_missing_says_why(run: ReportContents, contents: ReportContents):
    made = run.reconstructed
    assert isinstance(made, Reconstructed)
    nothing = dataclasses.replace(made, clips=Absent("none"), used=Absent("gone"))
    silent = dataclasses.replace(run, reconstructed=nothing, probes=contents.probes)
    text = text_of(silent)
    assert "Nothing to hear: none." in text
    assert "Use of the codes was not counted: gone." in text
    assert "What the encoder saw" in text
    assert "The encoder is above log-mel statistics" in text
    assert heard_of(silent) == []
    assert "Nothing to hear: not there." in text_of(dataclasses.replace(run, reconstructed=Absent("not there")))
    with pytest.raises(ValueError, match="learns no codec"):
        samples_section(contents, 0)


def test_a_distance_that_rose_is_told(run: ReportContents):
    made = run.reconstructed
    assert isinstance(made, Reconstructed)
    assert not isinstance(made.clips, Absent)
    clip = made.clips[0]
    worse = dataclasses.replace(clip, looks=(clip.looks[0], dataclasses.replace(clip.looks[1], mel=7.0)))
    told = text_of(dataclasses.replace(run, reconstructed=dataclasses.replace(made, clips=(worse,))))
    assert "The mel distance did not fall: 6 after step 0, 7 after step 500." in told


def test_terms_of_codecs_and_waveforms_have_names(run: ReportContents):
    names = ("context_std", "context_rank", "teacher_std", "teacher_rank", "hidden_share", "stft", "mel", "feature")
    names += ("discriminator", "least_used", "level_bits", "sample_mr_stft", "sample_si_sdr_db")
    rows = tuple({**row, **dict.fromkeys(names, 0.5)} for row in run.metrics)
    page = build_report(dataclasses.replace(run, metrics=rows))
    assert "a term of the objective, or a number it logs" not in page
    titles = re.findall(r'<div class="chart-head"><b>([^<]*)</b>', page)
    assert titles[0] == "Loss"
    assert titles.index("Discriminator loss") < titles.index("Mel distance of the samples")
    assert len(titles) == len(names) + 4


@pytest.mark.parametrize(
    ("steps", "shown"),
    [([0], [0]), ([0, 5], [0, 5]), ([0, 5, 9], [0, 5, 9]), (list(range(0, 101, 10)), [0, 50, 100])],
)
def test_the_first_the_middle_and_the_last_look_are_shown(steps, shown):
    assert chosen(steps) == shown
