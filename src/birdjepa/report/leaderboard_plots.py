"""Leaderboards as pictures: bars with intervals, scores over training examples or exemplars, scores over layers."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

from birdjepa.benchmark.bootstrap import Estimate
from birdjepa.benchmark.suites import metric_title
from birdjepa.report.charts import interval_chart
from birdjepa.report.html import Html, note, tag
from birdjepa.report.leaderboard import Cell, Leaderboard, Row
from birdjepa.report.leaderboard_tables import task_title
from birdjepa.report.points import Across, Point, lines_legend, points_chart

MOST_BARS = 12
MOST_LINES = 10
"""Rows and lines that a plot shows: the best ones."""
Swept = Literal["n_train", "layer"]


def bars(board: Leaderboard) -> list[Html]:
    """A plot of each task and headline mean that several rows have: the best ones with their intervals."""
    figures = []
    for column in _shown_columns(board):
        sign = 1 if board.less_is_better(column if column in board.tasks else board.tasks[0]) else -1
        found = [(sign * cell.value, board.label(row), cell) for row in board.rows if (cell := row.column(column))]
        best = sorted(found, key=lambda each: each[0])[:MOST_BARS]
        if len(best) > 1:
            rows = [(label, Estimate(cell.value, cell.low, cell.high)) for _, label, cell in best]
            chart = interval_chart(rows, chance=None, what=_title(board, column), left=300)
            more = [f"the best {len(best)} of {len(found)}"] if len(found) > len(best) else []
            figures.append(_figure(_title(board, column), chart, *more))
    return [tag("div", {"class": "charts wide"}, *figures)] if figures else []


def curves(board: Leaderboard, swept: Swept) -> list[Html]:
    """A plot of each task over training examples (exemplars, songs) or layers; empty where nothing was swept."""
    lines: dict[Hashable, list[Row]] = defaultdict(list)
    for row in board.rows:
        lines[row.line, row.layer if swept == "n_train" else row.n_train].append(row)
    swept_lines = [rows for rows in lines.values() if len({getattr(row, swept) for row in rows}) > 1]
    if swept == "layer":
        swept_lines = [[row for row in rows if row.layer is not None] for rows in swept_lines]
    named = {board.label(rows[0], without=swept): rows for rows in swept_lines if len(rows) > 1}
    shown = dict(list(named.items())[:MOST_LINES])
    if not shown:
        return []
    place, across = _across(board, swept, [row for rows in shown.values() for row in rows])
    figures, drawn = [], {}
    for column in _shown_columns(board):
        points = {name: _points(rows, column, place) for name, rows in shown.items()}
        points = {name: each for name, each in points.items() if len({point.x for point in each}) > 1}
        if points:
            chart = points_chart(_title(board, column), points, list(shown), across, share=True, band=True)
            figures.append(_figure(_title(board, column), chart))
            drawn |= points
    if not figures:
        return []
    told = "Lines go through the mean over seeds, bands cover the seeds, bars are 95 % intervals over test recordings."
    if len(named) > len(shown):
        told += f" Drawn are the best {len(shown)} of {len(named)} lines."
    legend = lines_legend(drawn, list(shown))
    return [legend, tag("div", {"class": "charts wide"}, *figures), note(told)]


def _shown_columns(board: Leaderboard) -> list[str]:
    """Headline means first: they are the shortest answer."""
    return [*(mean.name for mean in board.board.means if mean.is_headline), *board.tasks]


def _title(board: Leaderboard, column: str) -> str:
    metric = board.metric
    if metric is None:
        metric = next(row.cells[column].results[0].metric for row in board.rows if column in row.cells)
    return f"{task_title(column, board.board)}, {metric_title(metric)}"


def _figure(title: str, chart: Html, *told: str) -> Html:
    head = tag("div", {"class": "chart-head"}, tag("b", {}, title))
    return tag("figure", {"class": "chart"}, head, chart, *(tag("figcaption", {}, text) for text in told))


def _across(board: Leaderboard, swept: Swept, rows: Sequence[Row]) -> tuple[Callable[[Row], float], Across]:
    """Where a row lies on the axis, and the axis; all training examples lie right of the largest number."""
    if swept == "layer":
        layers = sorted({row.layer for row in rows if row.layer is not None})
        every = math.ceil(len(layers) / 16)
        texts = {float(layer): str(layer) for layer in layers[::-1][::every]}
        return lambda row: float(row.layer or 0), Across("layer", texts)
    counts = sorted({row.n_train for row in rows if row.n_train is not None})
    everything = 2.5 * counts[-1]
    texts = {float(count): str(count) for count in counts} | {everything: "all"}
    title = {"k": "exemplars k", "songs": "songs"}.get(board.board.shots, "training examples per class")
    return lambda row: everything if row.n_train is None else float(row.n_train), Across(title, texts, log=True)


def _points(rows: Sequence[Row], column: str, place: Callable[[Row], float]) -> list[Point]:
    return [point for row in rows if (cell := row.column(column)) for point in _of_cell(cell, place(row))]


def _of_cell(cell: Cell, x: float) -> list[Point]:
    """One point with its interval, or one for each seed without."""
    if len(cell.values) < 2:
        return [Point(x, cell.value, cell.low, cell.high)]
    return [Point(x, value, math.nan, math.nan) for value in cell.values]
