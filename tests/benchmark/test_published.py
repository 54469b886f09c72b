"""Published numbers: their sources' digits, means that recompute, conflicts whole, nothing that no source says."""

from collections import defaultdict
from statistics import mean

import pytest

from birdjepa.benchmark.published import TRUST, Published, published
from birdjepa.benchmark.suites import BOARDS

NAMED = {board.name: board for board in BOARDS}
UNKNOWN = ("lr", "decision tree", "rf", "gbdt", "xgb", "rn50p", "rn18", "rn50", "rn152", "BirdNET")
LOOSE = {"means as later papers quote them": 0.0011}
"""Rounded to three digits before it was averaged; others are rounded to a tenth or a hundredth of a percent."""


def rows() -> dict[tuple[str, ...], dict[str, Published]]:
    found: dict[tuple[str, ...], dict[str, Published]] = defaultdict(dict)
    for each in published():
        found[each.board, each.metric, each.model, each.head, each.source, each.regime][each.task] = each
    return found


def value(model: str, head: str, task: str, metric: str = "cmap") -> list[str]:
    return [
        each.percent
        for each in published()
        if (each.model, each.head, each.task, each.metric) == (model, head, task, metric)
    ]


def test_means_recompute_wherever_all_their_tasks_are_published():
    n = 0
    for (board, metric, *_, source, _), cells in rows().items():
        for each in NAMED[board].means:
            if each.name in cells and all(task in cells for task in each.tasks):
                said = cells[each.name]
                got = mean(cells[task].value for task in each.tasks)
                allowed = LOOSE.get(source, 0.00055 if said.n_digits == 1 else 0.00011)
                assert said.value == pytest.approx(got, abs=allowed), (metric, said)
                n += 1
    assert n == 26 * 2 + 3 + 2 + 23 * 2  # BirdSet twice, Perch 2.0, DSA, BEANS twice without restricted rows


def test_the_fine_tuned_mean_recomputes_from_another_source():
    cells = next(cells for key, cells in rows().items() if key[2:4] == ("Bird-MAE-L", "fine-tuned") and "per" in cells)
    seven = next(each for board in BOARDS for each in board.means if each.name == "mean7").tasks
    assert mean(cells[task].value for task in seven) == pytest.approx(0.440, abs=0.0005)
    assert mean(cells[task].value for task in (*seven, "pow")) == pytest.approx(0.454, abs=0.0005)


def test_digits_are_those_of_the_source():
    assert value("BirdMAE-L", "linear", "hsn") == ["16.37"]
    assert value("AudioMAE", "linear", "hsn") == ["14.61", "8.8"]
    assert value("svm", "as BEANS does", "beans-watkins", "accuracy") == ["87.0"]
    assert value("Perch v1", "own head", "mean7") == ["35.6 to 36.0"]
    assert value("Bird-MAE-H", "fine-tuned", "hsn") == ["54.8", "54.80"]


def test_sources_that_contradict_each_other_are_all_here():
    linear = value("BirdMAE-L", "linear", "hsn") + value("Bird-MAE-L", "linear", "hsn")
    assert linear == ["16.37", "12.44", "13.29"]
    assert value("BirdMAE-L", "attentive", "hsn") + value("Bird-MAE-L", "attentive", "hsn") == ["45.67", "47.81"]
    assert value("BirdMAE-L", "linear", "mean7", "auroc") == ["77.66", "72.81"]
    assert value("BirdMAE-L", "attentive", "mean7", "auroc") == ["86.54", "84.50"]


def test_nothing_is_here_that_no_source_says():
    for each in published():
        if "2504.12880" in each.source and each.kind == "probe":
            assert each.task == "hsn"  # its tables by head are known for this task only
        assert each.board in ("birdset", "beans-classification", "beans-detection")  # no model's score on BIRB is known
        assert (each.model, each.metric) != ("MetaPerch", "top1")
        assert each.model not in UNKNOWN
        assert each.trust in TRUST
        assert each.source


def test_every_number_is_a_share_of_a_task_or_mean_that_is_known():
    assert len(published()) == 999
    for each in published():
        assert 0 < each.value < 1
        board = NAMED[each.board]
        assert each.task in {*board.tasks, *(mean.name for mean in board.means), "average"}, each
