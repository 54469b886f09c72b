"""Leaderboards as tables: ours with intervals, and what others published in tables of their own.

All numbers are in percent. A published number is never in a column of ours: it was made under another recipe.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from birdjepa.benchmark.published import TRUST, Kind, Published, published
from birdjepa.benchmark.result import Result
from birdjepa.benchmark.suites import Board, metric_title
from birdjepa.report.html import Html, breakable, join, note, table, tag
from birdjepa.report.leaderboard import Cell, Leaderboard, Missing, Row

KINDS: dict[Kind, str] = {
    "probe": "classifiers on frozen features",
    "trained": "fine-tuned or trained on the task",
    "own head": "the model's own classifier, restricted to the task's classes",
    "zero-shot": "zero-shot",
    "not stated": "protocol not stated",
}
LEAKS = ("overlap", "was trained on")
"""Words by which a note warns that a model may know recordings of the task."""
PREFIXES = ("beans-", "birdset-")
"""Of tasks, left out where the table's title says it."""


MOST_ROWS = 15
"""Rows without a headline mean that are shown at once."""


class Notes:
    """Footnotes of a table, each under one letter however often it is needed."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, texts: Sequence[str]) -> Html:
        """Letters of some notes, raised."""
        letters = [self._letters.setdefault(text, _letter(len(self._letters))) for text in texts]
        marks = [f"⚑{letter}" if _is_leak(text) else letter for letter, text in zip(letters, texts, strict=True)]
        return tag("sup", {"title": "\n".join(texts)}, " ".join(marks)) if texts else join(())

    def listed(self) -> list[Html]:
        """What the letters stand for."""
        if not self._letters:
            return []
        leaks = [text for text in self._letters if _is_leak(text)]
        told = [join((tag("b", {}, letter), f" {text}. ")) for text, letter in self._letters.items()]
        flag = ["⚑ the model may have been trained on recordings of the task. "] if leaks else []
        return [note(*flag, *told)]


def ours_table(board: Leaderboard) -> list[Html]:
    """Our rows, best first, and below what must be known to read them; rows without the headline mean are folded away
    where there are many.
    """
    notes = Notes()
    shared = {task: _shared_notes(board, task) for task in board.tasks}
    about, constant = _about_columns(board)
    header: list[str] = [name for name, _ in about]
    header += [_heading(board, column, notes.mark(shared.get(column, ()))) for column in board.columns]
    rows = []
    for i, row in enumerate(board.rows):
        of_row = _notes_of_row(row, shared)
        cells: list[str] = [of(row) for _, of in about]
        cells[0] = join((cells[0], notes.mark(of_row)))
        for column in board.columns:
            known = (*shared.get(column, ()), *of_row)
            own = [text for text in _notes(row.cells.get(column)) if text not in known]
            cells.append(_cell(board, i, column, notes.mark(own)))
        rows.append(cells)
    headline = next((mean.name for mean in board.board.means if mean.is_headline), "")
    n_shown = max(MOST_ROWS, sum(row.column(headline) is not None for row in board.rows))
    parts = [_table(header, rows[:n_shown], len(about))]
    if rows[n_shown:]:
        more = tag("summary", {}, f"{len(rows) - n_shown} more rows")
        parts.append(tag("details", {}, more, _table(header, rows[n_shown:], len(about))))
    return [*parts, note(*constant, *_legend(board)), *notes.listed()]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], n_about: int) -> Html:
    return tag("div", {"class": "board"}, table(header, rows, numeric=range(n_about, len(header))))


def _heading(board: Leaderboard, column: str, marks: Html) -> Html:
    mean = next((mean for mean in board.board.means if mean.name == column), None)
    if mean is not None:
        return tag("span", {"title": mean.about}, column if mean.is_headline else f"({column})")
    title = task_title(column, board.board)
    metric = [tag("small", {}, metric_title(_metric_of(board, column)))] if board.metric is None else []
    return join((title, marks, *metric))


def published_table(found: Sequence[Published], board: Board) -> list[Html]:
    """Rows of one metric and kind, by the headline mean, then as their sources list them."""
    rows: dict[tuple[str, str, str, str], dict[str, Published]] = defaultdict(dict)
    for each in found:
        rows[each.model, each.head, each.source, each.regime][each.task] = each
    headline = next((mean.name for mean in board.means if mean.is_headline), "")

    def rank(cells: dict[str, Published]) -> float:
        return -cells[headline].value if headline in cells else 1.0

    order = (*board.tasks, *(mean.name for mean in board.means), "average")
    columns = [name for name in order if any(name in cells for cells in rows.values())]
    sources: dict[str, int] = {}
    notes, body = Notes(), []
    for (model, head, *_), cells in sorted(rows.items(), key=lambda item: rank(item[1])):
        first = next(iter(cells.values()))
        number = sources.setdefault(_source(first), len(sources) + 1)
        own = list(dict.fromkeys(each.note for each in cells.values() if each.note))
        values = [cells[name].percent if name in cells else "" for name in columns]
        body.append([join((model, notes.mark(own))), head, f"[{number}] {first.trust}", *values])
    header = ("model", "head", "source", *(task_title(name, board) for name in columns))
    told = [join((tag("b", {}, f"[{number}]"), f" {source}. ")) for source, number in sources.items()]
    shown = table(header, body, numeric=range(3, len(header)))
    return [tag("div", {"class": "board published"}, shown), note(*told), *notes.listed()]


def published_of(board: Board, metric: str, kind: Kind) -> list[Published]:
    """What is known of a board's tasks and means, in its metric and of one kind."""
    return [each for each in published() if (each.board, each.metric, each.kind) == (board.name, metric, kind)]


def task_title(task: str, board: Board) -> str:
    """A task's name without what the table's title says already."""
    for prefix in PREFIXES:
        task = task.removeprefix(prefix)
    return task.removesuffix("-retrieval") if board.suite == "birb-style" else task


def cell_text(cell: Cell) -> str:
    """A number in percent, with its spread over seeds."""
    if not math.isfinite(cell.value):
        return "n/a"
    spread = f" ± {100 * cell.sd:.1f}" if math.isfinite(cell.sd) else ""
    return f"{100 * cell.value:.1f}{spread}"


def _cell(board: Leaderboard, i: int, column: str, marks: Html) -> Html:
    row = board.rows[i]
    cell = row.cells.get(column) or row.means.get(column)
    if cell is None:
        return tag("span", {"class": "absent", "title": "not run"}, "-")
    if isinstance(cell, Missing):
        lacking = ", ".join(task_title(task, board.board) for task in cell.tasks)
        return tag("span", {"class": "absent", "title": f"no mean without {lacking}"}, "-")
    best = board.best(column) == i
    tied = i in board.tied.get(column, ())
    shown = tag("b" if best or tied else "span", {"title": _tooltip(cell)}, cell_text(cell), " =" if tied else "")
    bounds = f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]" if math.isfinite(cell.low) else ""
    return join((shown, marks, *([tag("small", {}, bounds)] if bounds else [])))


def _seeds(row: Row) -> str:
    """How many seeds the cells of a row have, such as 3 or 1-3."""
    counts = {cell.n_seeds for cell in row.cells.values()}
    return "-".join(map(str, sorted({min(counts), max(counts)})))


def _tooltip(cell: Cell) -> str:
    lines = []
    for result in cell.results:
        counts = ", ".join(f"{name} {count:,}" for name, count in result.counts.items())
        lines.append(f"seed {result.seed}: {counts}" if counts else f"seed {result.seed}")
    return "\n".join(lines) or "unweighted mean over tasks; interval as of independent tasks"


def _about_columns(board: Leaderboard) -> tuple[list[tuple[str, Callable[[Row], str]]], list[str]]:
    """Columns that say which row it is, and what is the same in all rows and needs no column."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("model", lambda row: join((breakable(row.model), *(tag("small", {}, text) for text in row.told)))),
        ("classifier", lambda row: tag("span", {"class": "word"}, row.classifier)),
    ]
    others: list[tuple[str, Callable[[Row], str]]] = [
        ("layer", lambda row: "" if row.layer is None else str(row.layer)),
        ("pooling", lambda row: row.pooling),
        (board.board.shots, lambda row: "all" if row.n_train is None else str(row.n_train)),
        ("seeds", _seeds),
    ]
    constant = []
    for name, of in others:
        values = {of(row) for row in board.rows}
        if len(values) > 1:
            columns.append((name, of))
        elif value := next(iter(values)):
            constant.append(f"{name}: {value}")
    return columns, [f"In all rows {', '.join(constant)}. "] if constant else []


def _legend(board: Leaderboard) -> list[str]:
    told = ["In percent; brackets: 95 % interval over test recordings"]
    cells = [cell for row in board.rows for column in board.columns if (cell := row.column(column))]
    if any(cell.n_seeds > 1 for cell in cells):
        told.append("; ±: standard deviation over seeds, whose intervals are averaged")
    told.append("; bold: best of its column")
    if board.tied:
        names = ", ".join(task_title(column, board.board) for column in board.tied)
        told.append(f"; =: cannot be told from it (paired over recordings, Holm-corrected; compared: {names})")
    told.append(". ")
    for mean in board.board.means:
        extra = "" if mean.is_headline else ", an extra"
        told.append(f"{mean.name}: {mean.about}{extra}; only where all of them are there. ")
    scored = [f"{task_title(task, board.board)} {count}" for task in board.tasks if (count := _n_scored(board, task))]
    if scored:
        told.append(f"Classes scored: {', '.join(scored)}.")
    return told


def _n_scored(board: Leaderboard, task: str) -> str:
    counts = {result.counts.get("n_classes_scored") for result in _results(board, task)} - {None}
    return " or ".join(map(str, sorted(count for count in counts if count is not None)))


def _metric_of(board: Leaderboard, task: str) -> str:
    return board.metric or next((result.metric for result in _results(board, task)), "")


def _results(board: Leaderboard, task: str) -> list[Result]:
    return [result for row in board.rows if task in row.cells for result in row.cells[task].results]


def _shared_notes(board: Leaderboard, task: str) -> tuple[str, ...]:
    """Notes that every result of a task has."""
    notes = [result.notes for result in _results(board, task)]
    return tuple(text for text in notes[0] if all(text in each for each in notes)) if notes else ()


def _notes_of_row(row: Row, shared: Mapping[str, Sequence[str]]) -> list[str]:
    """Notes that all of several cells have, and not only because all results of their tasks do."""
    texts = [_notes(cell) for cell in row.cells.values()]
    common = [text for text in texts[0] if all(text in each for each in texts)]
    return [text for text in common if len(texts) > 1 and not all(text in shared[task] for task in row.cells)]


def _notes(cell: Cell | None) -> list[str]:
    return list(dict.fromkeys(text for result in cell.results for text in result.notes)) if cell else []


def _source(each: Published) -> str:
    regime = f"; {each.regime}" if each.regime and each.regime != "not stated" else ""
    return f"{each.source}{regime} ({TRUST[each.trust]})"


def _is_leak(text: str) -> bool:
    return any(word in text.lower() for word in LEAKS)


def _letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("a") + last)
