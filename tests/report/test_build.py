"""The page: whole, self-contained, honest about what is missing, and not to be broken by names."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from report_examples import HOSTILE, predicted_seen

from birdjepa.report.build import PLACES, build_report, write_report
from birdjepa.report.contents import Absent, ReportContents
from birdjepa.report.html import VOID

FETCHING = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and collects what could ask for something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> does not close the last element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page(contents: ReportContents) -> str:
    return build_report(contents)


def test_well_formed_with_unique_ids_and_all_sections(page: str):
    read = Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(set(read.ids)) == len(read.ids)
    assert {place for place, _ in PLACES} - {"samples"} <= set(read.ids)


def test_nothing_is_fetched(page: str):
    for tag, attributes in Page(page).elements:
        for name in FETCHING:
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value!r:.60}>"
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_hostile_names_stay_text(page: str):
    read = Page(page)
    scripts = [attributes for tag, attributes in read.elements if tag == "script"]
    assert [each.get("type") for each in scripts] == ["application/json"] * 3 + [None]
    assert not any(name.startswith("on") for _, attributes in read.elements for name in attributes)
    assert all(attributes["src"] != "x" for tag, attributes in read.elements if tag == "img")
    assert "\0" not in page
    page.encode("utf-8")
    assert HOSTILE.replace("\0", "\ufffd").replace("\udcff", "\ufffd") in "".join(read.text)


def test_pictures_have_words(page: str):
    elements = Page(page).elements
    assert all(attributes.get("alt") for tag, attributes in elements if tag == "img")
    large = [attributes for tag, attributes in elements if tag == "svg" and attributes.get("aria-hidden") is None]
    assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in large)


def test_every_play_button_has_a_sound(page: str, contents: ReportContents):
    buttons = [
        attributes for tag, attributes in Page(page).elements if attributes.get("class") == "play" and tag == "button"
    ]
    sounds = re.search(r'id="sounds">(\[.*?\])</script>', page)
    assert sounds is not None
    n_sounds = sounds.group(1).count("data:audio/")
    assert n_sounds == len(contents.heard) + 1
    assert {int(each["data-sound"] or -1) for each in buttons} == set(range(n_sounds))
    assert all((each["aria-label"] or "").startswith("Play ") for each in buttons)


def test_right_and_wrong_are_told_by_more_than_colour(page: str):
    text = "".join(Page(page).text)
    assert "✗" in text
    assert 'aria-label="another label"' in page


def test_the_verdict_says_what_the_intervals_allow(page: str):
    text = "".join(Page(page).text)
    assert "The encoder is above log-mel statistics; not clearly different from the untrained encoder." in text
    assert "0.800 [0.750, 0.850]" in text
    assert "0.100 [0.020, 0.200]" in text
    assert "30 steps, loss 1 → 0.03333." in text
    assert "Alarm at 1 logged step, last at step 20" in text


def test_terms_of_any_objective_are_drawn(page: str):
    assert "own term" in page
    titles = re.findall(r'<div class="chart-head"><b>([^<]*)</b>', page)
    assert titles == ["Loss", "own term", "Effective rank", "Online probe accuracy", "Learning rate"]


def test_objectives_logs_have_names_and_the_curriculum_is_drawn(contents: ReportContents):
    masks = {"kind": "CurriculumConfig", "pace": "sqrt", "start": 0.01}
    config = {**contents.config, "objective": {"kind": "AjepaConfig", "masks": masks}}
    more = {"added_sigreg": 1.0, "target_share": 0.2, "context_share": 0.3, "target_std": 0.8}
    metrics = tuple({**row, **more} for row in contents.metrics)
    page = build_report(dataclasses.replace(contents, config=config, metrics=metrics))
    titles = re.findall(r'<div class="chart-head"><b>([^<]*)</b>', page)
    assert titles == [
        "Loss", "Added SIGReg above its floor", "own term", "Target std", "Probability of hard masks", "Context share",
        "Target share", "Effective rank", "Online probe accuracy", "Learning rate",
    ]  # fmt: skip
    drawn = re.search(r"Probability of hard masks from step 1 to 30: ([\d.]+) to ([\d.]+)", page)
    assert drawn is not None
    assert [float(share) for share in drawn.groups()] == pytest.approx([0.01, (29 / 30) ** 0.5], rel=1e-3)


def test_predictions_are_shown_with_their_floor_and_the_steps_of_masks_and_weights(contents: ReportContents):
    predicted = dataclasses.replace(contents, seen=predicted_seen(contents.heard[0]))
    page = build_report(predicted)
    read = Page(page)
    text = "".join(read.text)
    assert "look whether the context leaves a clue" in text
    assert "Masks of step 1 of 30" in text
    assert "Masks of step 20 of 30" in text
    assert "weights of the newest checkpoint, after step 20" in text
    assert "tells more about the hidden sound than an untrained predictor does: R² differs by 0.200" in text
    assert "0.500 [0.400, 0.600]" in text
    assert text.count("40% of the clip") == 6
    assert " hidden." in text
    classes = [attributes.get("class") for _, attributes in read.elements]
    assert classes.count("block") == 8
    assert not any((name or "").startswith("box") for name in classes)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    untrained = dataclasses.replace(
        predicted_seen(contents.heard[0]), trained=Absent("no checkpoint"), drawing=Absent("a reason")
    )
    text = "".join(Page(build_report(dataclasses.replace(contents, seen=untrained))).text)
    assert "Predictions by untrained weights: no checkpoint." in text
    assert "Predictions were not drawn: a reason." in text


def test_the_same_contents_give_the_same_page(page: str, contents: ReportContents):
    assert build_report(contents) == page


def test_empty_parts_say_why(bare: ReportContents):
    read = Page(build_report(bare))
    text = "".join(read.text)
    for reason in (
        "Nothing was logged yet.",
        "No curves: metrics.jsonl is missing",
        "No probe was run on this encoder",
        "Nothing to show: the recordings are not at hand.",
        "No map: the recordings are not at hand.",
        "No neighbours: the recordings are not at hand.",
        "Nothing is known of the data",
        "failures.csv is not there",
        "provenance.json is missing.",
    ):
        assert reason in text
    assert {place for place, _ in PLACES} - {"samples"} <= set(read.ids)
    assert not any(attributes.get("class") == "play" for _, attributes in read.elements)


def test_one_row_of_metrics(contents: ReportContents):
    page = build_report(dataclasses.replace(contents, metrics=contents.metrics[:1]))
    Page(page)
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_without_labels(contents: ReportContents):
    made = contents.map
    assert not isinstance(made, type(None))
    unlabelled = dataclasses.replace(made, labels=("",) * 12, agreement=None)
    heard = tuple(dataclasses.replace(clip, label="") for clip in contents.heard)
    text = "".join(Page(build_report(dataclasses.replace(contents, map=unlabelled, heard=heard))).text)
    assert "no label" in text


def test_many_labels_leave_the_rest_grey(contents: ReportContents):
    labels = tuple(f"species {i:02d}" for i in range(40))
    import numpy as np

    made = dataclasses.replace(
        contents.map, labels=labels, recordings=labels, heard=(None,) * 40, xy=np.arange(80.0).reshape(40, 2)
    )
    text = "".join(Page(build_report(dataclasses.replace(contents, map=made))).text)
    assert "species 23" in text
    assert "16 more labels, or none" in text


def test_report_is_written(bare: ReportContents, tmp_path):
    path = write_report(tmp_path, bare)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == build_report(bare)
