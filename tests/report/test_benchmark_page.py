"""The page of benchmark results: what stands beside what, what is missing, and names that try to break it."""

import functools
import math
import re
from collections.abc import Mapping

import numpy as np
from benchmark_examples import multi_label_scores, result, single_label_scores, undefined
from report_examples import HOSTILE

from birdjepa.benchmark.result import Result
from birdjepa.core.errors import UsageError
from birdjepa.report.benchmark_contents import gather_benchmark
from birdjepa.report.benchmark_csv import board_rows, result_rows
from birdjepa.report.benchmark_page import benchmark_page
from birdjepa.report.leaderboard import leaderboards

TASKS = ("pow", "per", "nes", "uhh", "hsn", "nbp", "ssw", "sne")


def no_scores(of: Result) -> Mapping[str, np.ndarray]:
    raise UsageError(f"{of.task}: the file is gone")


def page_of(*results: Result, read=no_scores) -> str:
    return benchmark_page(gather_benchmark("results.sqlite", results, read))


def full() -> list[Result]:
    """A bit of everything, with hostile names."""
    grid = [result(task, 0.3, classifier=name) for task in TASKS for name in ("linear", "restricted", "attentive")]
    seeds = [result("pow", 0.2 + 0.01 * seed, n_train=n, seed=seed) for n in (1, 10) for seed in (1, 2)]
    layers = [result("pow", 0.1 * layer, layer=layer) for layer in (1, 2, 3)]
    retrieval = [
        result("per-retrieval", 0.6 + 0.01 * k, suite="birb-style", metric="species_auroc", n_train=k)
        for k in (1, 2, 4)
    ]
    hostile = result(HOSTILE, suite=f"suite {HOSTILE}", model=HOSTILE, classifier=HOSTILE, notes=(HOSTILE,), scores="x")
    cbi = result("beans-cbi", suite="beans", metric="accuracy", scores="y")
    return [*grid, *seeds, *layers, *retrieval, hostile, cbi, undefined(task="mine", suite="own")]


def read(of: Result) -> Mapping[str, np.ndarray]:
    arrays = single_label_scores(60, 5) if of.suite == "beans" else multi_label_scores(80, 6)
    return {**arrays, "classes": np.array([f"{name} {HOSTILE[:30]}" for name in arrays["classes"]])}


@functools.cache
def full_page() -> str:
    return page_of(*full(), read=read)


def test_nothing_in_a_name_becomes_markup():
    page = full_page()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("<script") == 1  # our own
    assert page == page_of(*full(), read=read)


def test_an_empty_store_says_what_would_fill_it():
    page = page_of()
    assert "There are no results yet. birdjepa benchmark writes them." in page


def test_one_undefined_result_is_a_page():
    page = page_of(undefined())
    assert "n/a" in page
    assert "pow: no number is defined" in page
    assert "no row has all 7 tasks of mean7" in page


def test_published_numbers_stand_in_tables_of_their_own_of_the_same_kind():
    page = full_page()
    tables = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    ours = [each for each in tables if ">attentive<" in each and ">30.0<" in each]
    (probes,) = [each for each in tables if ">38.17<" in each]
    assert ours
    assert not any("30.0" in each and "38.17" in each for each in tables)
    assert "34.17" not in probes  # restricted logits of ConvNeXt-BS
    assert ">16.37<" in probes  # sources that contradict each other, side by side
    assert ">12.44<" in probes
    assert ">13.29<" in probes
    assert "arXiv 2508.01277" in page
    assert "not checked against the paper" in page


def test_a_mean_that_lacks_a_task_is_a_dash_that_names_it():
    page = page_of(*(result(task) for task in TASKS if task != "ssw"))
    assert '<span class="absent" title="no mean without ssw">-</span>' in page


def test_what_a_reader_must_know_is_on_the_page():
    leak = "ours was trained on xeno-canto, which overlaps with its test part"
    page = page_of(result("pow", notes=("a note", leak)), result("pow", 0.5, model="other", notes=("a note",)))
    assert "Classes scored: pow 20." in page
    assert "pooling: mean" in page
    assert "⚑ the model may have been trained on recordings of the task" in page
    assert leak in page
    assert page.count("a note. ") == 1  # once below the table, a letter at the task


def test_a_note_of_all_cells_of_a_row_is_told_at_its_model():
    both = [result(task, notes=("leaky: overlap",)) for task in ("pow", "per")]
    page = page_of(*both, *(result(task, 0.2, model="other") for task in ("pow", "per")))
    assert page.count("⚑a") == 1
    assert 'ours<sup title="leaky: overlap">⚑a</sup>' in page


def test_curves_are_drawn_where_something_was_swept():
    page = full_page()
    for told in ("Over training examples", "Over exemplars", "Over layers", "exemplars k"):
        assert told in page
    assert "Over layers" not in page_of(result("pow", n_train=1), result("pow", n_train=5))


def test_classes_come_from_scores_and_their_absence_is_told():
    page = full_page()
    assert 'class="matrix"' in page
    assert "highest wrong class" in page
    gone = page_of(result("pow", scores="a"), result("per"))
    assert "pow: the file is gone" in gone
    assert "per: no scores were kept beside the results" in gone


def test_tidy_rows_hold_every_metric_once():
    rows = list(result_rows([result("pow", 0.4, more={"auroc": 0.8, "top1": math.nan})]))
    assert [(row["metric"], row["value"], row["is_headline"]) for row in rows] == [
        ("cmap", "0.4", 1), ("auroc", "0.8", 0), ("top1", "", 0),
    ]  # fmt: skip
    assert rows[0]["n_train"] == "all"
    assert '"weights": "hash of ours"' in rows[0]["experiment"]


def test_leaderboard_rows_hold_ours_and_what_was_published():
    rows = list(
        board_rows(leaderboards([result(task, classifier=name) for task in TASKS for name in ("linear", "mlp")]))
    )
    ours = [row for row in rows if row["source"] == "ours"]
    assert len(ours) == 2 * (8 + 2)
    assert [row["value"] for row in ours if row["column"] == "mean7"] == ["0.4", "0.4"]
    published = [row for row in rows if row["source"] != "ours"]
    assert {row["board"] for row in published} == {"birdset"}
    perch = next(row for row in published if row["model"] == "Perch v1" and row["note"].endswith("up to 0.36"))
    assert perch["value"] == "0.356"
    assert set(rows[0]) == set(published[0])
