"""Boards hold the tasks that there are, each once, and means are over tasks of their board."""

import pytest

from birdjepa.benchmark.suites import BOARDS, board_of, is_error
from birdjepa.benchmark.tasks import TASKS


def test_every_task_has_a_board_that_lists_it():
    for task in TASKS.values():
        board = board_of(task.suite, task.name)
        assert board in BOARDS, task.name
        assert not board.tasks or task.name in board.tasks


def test_every_listed_task_is_there_and_its_board_has_one_metric():
    for board in BOARDS:
        assert set(board.tasks) <= set(TASKS)
        assert len({TASKS[name].metric for name in board.tasks}) <= 1
        assert all(set(mean.tasks) <= set(board.tasks) for mean in board.means)
        assert sum(mean.is_headline for mean in board.means) == bool(board.means)


def test_the_headline_of_birdset_leaves_out_the_task_on_which_models_are_chosen():
    means = {mean.name: mean for mean in board_of("birdset", "pow").means}
    assert set(means["mean8"].tasks) - set(means["mean7"].tasks) == {"pow"}
    assert means["mean7"].is_headline
    assert not means["mean8"].is_headline


@pytest.mark.parametrize(
    ("metric", "less_is_better"),
    [("macro_frame_error", True), ("syllable_error_rate", True), ("cmap", False), ("segment_f1_10ms", False)],
)
def test_errors_are_better_when_less(metric: str, less_is_better: bool):
    assert is_error(metric) is less_is_better
