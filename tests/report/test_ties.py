"""Rows that cannot be told from the best: equals are, clearly worse ones are not, what lacks scores has no mark."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from benchmark_examples import multi_label_scores, result
from test_leaderboard import SEVEN

from birdjepa.benchmark.result import Result
from birdjepa.benchmark.scoring import score
from birdjepa.core.errors import UsageError
from birdjepa.report.leaderboard import Leaderboard, leaderboards
from birdjepa.report.leaderboard_tables import ours_table
from birdjepa.report.ties import with_ties

SKILLS = {"good": 2.0, "twin": 2.0, "worse": 1.2, "bad": 0.0}


def arrays(of: Result) -> Mapping[str, np.ndarray]:
    seed = 10 * list(SKILLS).index(of.model) + of.seed
    return multi_label_scores(300, 6, seed=seed, skill=SKILLS[of.model])


def scored(task: str, model: str, seed: int = 0) -> Result:
    """A result with the number that its stored scores are worth."""
    made = result(task, model=model, seed=seed, scores="kept")
    kept = arrays(made)
    found = score(
        kept["scores"],
        kept["truth"],
        [str(name) for name in kept["groups"]],
        "multi-label",
        classes=[str(name) for name in kept["classes"]],
        seed=0,
        n_resamples=100,
    )
    return dataclasses.replace(made, metrics={"cmap": found.metrics["cmap"]})


def compared(results: list[Result], read=arrays) -> Leaderboard:
    (board,) = leaderboards(results)
    return with_ties(board, read, n_resamples=200, say=lambda _: None)


def names(board: Leaderboard, column: str) -> set[str]:
    return {board.rows[i].model for i in board.tied[column]}


def test_equals_are_tied_and_what_is_worse_is_not():
    board = compared([scored("pow", model) for model in SKILLS])
    best = board.best("pow")
    assert best is not None
    assert {board.rows[best].model, *names(board, "pow")} == {"good", "twin"}
    shown = "".join(ours_table(board))
    assert shown.count(" =</b>") == 1
    assert "compared: pow" in shown


def test_seeds_are_averaged_and_means_are_compared_over_all_their_tasks():
    board = compared(
        [scored(task, model, seed) for task in SEVEN for model in ("good", "bad", "twin") for seed in (0, 1)]
    )
    assert set(board.tied) == {"mean7", *SEVEN}
    assert "bad" not in {name for column in board.tied for name in names(board, column)}


def test_without_scores_nothing_is_marked():
    results = [scored("pow", model) for model in ("good", "twin")]
    assert compared([results[0], dataclasses.replace(results[1], scores=None)]).tied == {}
    assert compared(results[:1]).tied == {}

    def gone(of: Result) -> Mapping[str, np.ndarray]:
        raise UsageError("the file is gone")

    assert compared(results, gone).tied == {}
    assert compared(results, lambda of: {"scores": np.zeros((2, 2))}).tied == {}


def test_scores_of_other_examples_are_not_compared():
    def other(of: Result) -> Mapping[str, np.ndarray]:
        kept = arrays(of)
        return {**kept, "ids": np.array([f"{name}x" for name in kept["ids"]])} if of.model == "twin" else kept

    assert compared([scored("pow", model) for model in ("good", "twin")], other).tied == {}


def test_metrics_that_scores_do_not_hold_are_not_compared():
    results = [
        result("x", value, model=model, suite="own", metric="odd", scores="kept")
        for model, value in (("good", 0.4), ("twin", 0.41))
    ]
    assert compared(results).tied == {}
