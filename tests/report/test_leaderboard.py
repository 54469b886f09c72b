"""Which results share a row, which means may be taken, and what a cell says of several seeds."""

import math

import pytest
from benchmark_examples import result, undefined

from birdjepa.benchmark.result import Result
from birdjepa.report.leaderboard import Cell, Leaderboard, Missing, leaderboards

SEVEN = ("per", "nes", "uhh", "hsn", "nbp", "ssw", "sne")


def one(*results: Result) -> Leaderboard:
    (board,) = leaderboards(results)
    return board


def test_mean7_leaves_out_pow_and_mean8_is_an_extra():
    values = dict(zip(("pow", *SEVEN), (0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), strict=True))
    board = one(*(result(task, value) for task, value in values.items()))
    (row,) = board.rows
    mean7, mean8 = row.column("mean7"), row.column("mean8")
    assert isinstance(mean7, Cell)
    assert isinstance(mean8, Cell)
    assert mean7.value == pytest.approx(0.4)
    assert mean8.value == pytest.approx(3.7 / 8)
    assert mean7.high - mean7.value == pytest.approx(0.03 / math.sqrt(7))  # of seven independent tasks
    assert board.columns == ("mean7", "pow", *SEVEN, "mean8")


def test_a_mean_with_a_task_missing_or_undefined_is_not_taken():
    results = [result(task) for task in SEVEN if task != "ssw"]
    (row,) = one(*results).rows
    assert row.means["mean7"] == Missing(("ssw",))
    assert row.means["mean8"] == Missing(("pow", "ssw"))
    (row,) = one(*results, undefined(task="ssw")).rows
    assert row.means["mean7"] == Missing(("ssw",))
    assert row.column("ssw") is None


def test_seeds_are_one_cell_with_their_spread():
    board = one(*(result("pow", value, seed=seed) for seed, value in enumerate((0.3, 0.4, 0.5))))
    cell = board.rows[0].cells["pow"]
    assert cell.values == (0.3, 0.4, 0.5)
    assert cell.value == pytest.approx(0.4)
    assert cell.sd == pytest.approx(0.1)
    assert (cell.low, cell.high) == (pytest.approx(0.37), pytest.approx(0.43))


def test_the_means_spread_is_over_seeds_that_all_tasks_have():
    both = [result(task, 0.4 + 0.1 * seed, seed=seed) for task in SEVEN for seed in (0, 1)]
    mean = one(*both).rows[0].column("mean7")
    assert mean is not None
    assert mean.values == (pytest.approx(0.4), pytest.approx(0.5))
    mean = one(*both, result("ssw", 0.9, seed=2)).rows[0].column("mean7")
    assert mean is not None
    assert math.isnan(mean.sd)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_identity": {"weights": "other"}}, "weights=other"),
        ({"classifier_config": {"kind": "LinearConfig", "n_steps": 200}}, "n_steps=200"),
        ({"versions": {"benchmark": 2}}, "benchmark=2"),
    ],
)
def test_what_decides_numbers_never_shares_a_row_even_between_tasks(changed: dict, told: str):
    board = one(*(result(task) for task in SEVEN[:6]), result("sne", experiment=changed))
    assert len(board.rows) == 2
    assert told in board.rows[1].told
    assert all(isinstance(row.means["mean7"], Missing) for row in board.rows)


def test_other_data_than_most_have_a_row_of_their_own():
    odd = result("per", 0.9, model="b", experiment={"data": "half of it"})
    board = one(
        *(result(task, model=model) for task in SEVEN for model in ("a", "b", "c") if (task, model) != ("per", "b")),
        odd,
    )
    assert [row.model for row in board.rows if row.settings] == ["b"]
    assert next(row for row in board.rows if row.settings).told == ("data=half of it",)
    assert sum(isinstance(row.means["mean7"], Cell) for row in board.rows) == 2


def test_the_models_own_choice_of_layer_is_the_layer_it_chose():
    board = one(result("pow"), result("per", layer=12), result("pow", layer=3))
    assert [(row.layer, sorted(row.cells)) for row in board.rows] == [(12, ["per", "pow"]), (3, ["pow"])]


def test_own_heads_fine_tuning_and_probes_never_stand_in_one_table():
    boards = leaderboards([result(classifier=name) for name in ("restricted", "linear", "finetune", "mlp")])
    assert [(board.kind, len(board.rows)) for board in boards] == [("probe", 2), ("trained", 1), ("own head", 1)]


def test_the_best_is_the_lowest_error():
    errors = {"a": 0.3, "b": 0.1, "c": 0.2}
    board = one(
        *(result("koumura", v, model=m, suite="syllables", metric="macro_frame_error") for m, v in errors.items())
    )
    assert [row.model for row in board.rows] == ["b", "c", "a"]
    assert board.best("koumura") == 0
    assert one(result("pow", 0.3, model="a"), result("pow", 0.4, model="b")).rows[0].model == "b"
    assert one(result("pow")).best("pow") is None  # nobody to be better than


def test_a_suite_of_several_metrics_has_a_table_of_headlines_and_one_of_each_metric():
    results = [
        result("esc10", suite="general", metric="accuracy"),
        result("audioset-20k", suite="general", metric="map"),
    ]
    boards = leaderboards(results)
    assert [(board.metric, board.tasks, board.is_headline) for board in boards] == [
        (None, ("audioset-20k", "esc10"), True),
        ("accuracy", ("esc10",), False),
        ("map", ("audioset-20k",), False),
    ]


def test_beans_is_two_tables_and_what_is_unknown_has_its_own():
    results = [
        result("beans-cbi", suite="beans", metric="accuracy"),
        result("beans-dcase", suite="beans", metric="map_beans"),
        result("mine", suite="birdset"),
        result("x", suite="another"),
    ]
    names = [board.board.name for board in leaderboards(results)]
    assert names == ["beans-classification", "beans-detection", "another", "birdset-other"]


def test_labels_say_what_differs_and_shorten_encoder_folders():
    board = one(
        result(model="runs/first/encoder", n_train=5), result(model="bird-mae"), result(model="bird-mae", layer=3)
    )
    assert sorted(map(board.label, board.rows)) == [
        "bird-mae · linear · layer 12 · all",
        "bird-mae · linear · layer 3 · all",
        "first · linear · layer 12 · 5 per class",
    ]
    twins = one(result(model="a/x/encoder"), result(model="b/x/encoder"))
    assert {twins.label(row) for row in twins.rows} == {"a/x/encoder · linear", "b/x/encoder · linear"}
