"""Benchmark results as one HTML page: a leaderboard for each benchmark, plots, and the classes of the best results."""

import math
from collections import Counter
from collections.abc import Sequence

from birdjepa.benchmark.published import Kind, published
from birdjepa.benchmark.suites import Board, is_error, metric_title
from birdjepa.report.benchmark_contents import BenchmarkContents
from birdjepa.report.build import page
from birdjepa.report.confusions import confusions
from birdjepa.report.contents import Absent
from birdjepa.report.examined import Examined
from birdjepa.report.html import Html, breakable, join, note, section, table, tag
from birdjepa.report.leaderboard import Leaderboard
from birdjepa.report.leaderboard_plots import bars, curves
from birdjepa.report.leaderboard_tables import KINDS, cell_text, ours_table, published_of, published_table, task_title

NOTHING = "There are no results yet. birdjepa benchmark writes them."


def benchmark_page(contents: BenchmarkContents) -> str:
    """The page. The same contents give the same bytes."""
    boards = list(dict.fromkeys(each.board for each in contents.boards))
    parts = [_board(board, contents) for board in boards]
    links = [(board.name, board.title) for board in boards] + [("origin", "Origin")]
    nav = tag("nav", {"aria-label": "Sections"}, *(tag("a", {"href": f"#{place}"}, name) for place, name in links))
    main = tag("main", {}, *parts, _origin(contents)) if boards else tag("main", {}, note(NOTHING))
    footer = tag("footer", {}, "Made by birdjepa report. This page is one file: it asks nothing of the network.")
    body = (_header(contents, boards), *([nav] if boards else []), main, footer)
    tip = tag("div", {"id": "tip", "role": "status", "hidden": True})
    return page(f"{contents.name} · birdjepa benchmark", (*body, tip))


def _header(contents: BenchmarkContents, boards: Sequence[Board]) -> Html:
    results = contents.results
    models, tasks = {result.model for result in results}, {result.task for result in results}
    counts = (("result", len(results)), ("model", len(models)), ("task", len(tasks)))
    tiles = [(f"{n:,}", name if n == 1 else f"{name}s") for name, n in counts]
    tiles.append((f"{sum(result.seconds for result in results) / 3600:,.1f} h", "computed"))
    shown = tag(
        "div", {"class": "tiles"}, *(tag("div", {}, tag("b", {}, n), tag("span", {}, told)) for n, told in tiles)
    )
    lines = [line for board in boards for line in _verdicts(board, contents)]
    return tag(
        "header", {}, tag("p", {"class": "kicker"}, "birdjepa benchmark"), tag("h1", {}, breakable(contents.name)),
        *(tag("p", {"class": "verdict"}, line) for line in lines), *([shown] if results else []),
    )  # fmt: skip


def _verdicts(board: Board, contents: BenchmarkContents) -> list[str]:
    """The best headline mean of a board, or what it lacks."""
    mean = next((mean for mean in board.means if mean.is_headline), None)
    if mean is None:
        return []
    found = []
    for each in contents.boards:
        if each.board != board or not each.is_headline:
            continue
        if (best := next((row for row in each.rows if row.column(mean.name)), None)) is not None:
            cell = best.column(mean.name)
            assert cell is not None
            metric = metric_title(each.metric or "")
            found.append(
                f"{board.title}: {each.label(best)}, {mean.name} {metric} {cell_text(cell)} ({KINDS[each.kind]})."
            )
    return found or [f"{board.title}: no row has all {len(mean.tasks)} tasks of {mean.name} yet."]


def _board(board: Board, contents: BenchmarkContents) -> Html:
    mine = [each for each in contents.boards if each.board == board]
    first = [each for each in mine if each.is_headline]
    parts: list[Html] = []
    beside: set[tuple[str, Kind]] = set()
    for each in first:
        parts += _leaderboard(each, beside)
    for each in first:
        parts += _plots(each, several=len(first) > 1)
    others = [each for each in mine if not each.is_headline]
    parts += _under("Other metrics", [(_title(each), _leaderboard(each, beside, heading=False)) for each in others])
    parts += _under(
        "More published numbers, beside which there are none of ours yet", _rest_of_published(board, beside)
    )
    parts += _classes(board, first, contents)
    return section(board.name, board.title, board.about, *parts)


def _leaderboard(each: Leaderboard, beside: set[tuple[str, Kind]], *, heading: bool = True) -> list[Html]:
    """Ours, and below it what was published in the same metric and of the same kind."""
    parts = [tag("h3", {}, _title(each))] if heading else []
    parts += ours_table(each)
    found = published_of(each.board, each.metric, each.kind) if each.metric else []
    if found and each.metric:
        beside.add((each.metric, each.kind))
        told = f"Published by others in {metric_title(each.metric)} ({KINDS[each.kind]}): not run by us, other recipes"
        parts.append(_folded(told, *published_table(found, each.board), is_open=heading))
    return parts


def _title(each: Leaderboard) -> str:
    metric = metric_title(each.metric) if each.metric else "each task in its own metric"
    return f"{metric.capitalize() if metric.islower() else metric}: {KINDS[each.kind]}"


def _rest_of_published(board: Board, beside: set[tuple[str, Kind]]) -> list[tuple[str, list[Html]]]:
    """What others published under protocols or in metrics of which there are no results of ours."""
    mine = [each for each in published() if each.board == board.name]
    pairs: dict[tuple[str, Kind], None] = {(each.metric, each.kind): None for each in mine}
    return [
        (f"{metric_title(metric)}: {KINDS[kind]}", published_table(published_of(board, metric, kind), board))
        for metric, kind in pairs
        if (metric, kind) not in beside
    ]


def _plots(each: Leaderboard, *, several: bool) -> list[Html]:
    of = f" ({KINDS[each.kind]})" if several else ""
    shots = {"k": "Over exemplars", "songs": "Over songs"}.get(each.board.shots, "Over training examples")
    found = (("Intervals", bars(each)), (shots, curves(each, "n_train")), ("Over layers", curves(each, "layer")))
    return [_folded(f"{title}{of}", *drawn, is_open=True) for title, drawn in found if drawn]


def _classes(board: Board, first: Sequence[Leaderboard], contents: BenchmarkContents) -> list[Html]:
    """Each task's classes, of the best result whose scores are there."""
    parts = []
    for task in dict.fromkeys(task for each in first for task in each.tasks):
        found = contents.examined.get(task)
        if isinstance(found, Absent):
            parts.append(note(f"No confusions. {found.reason}."))
        elif found is not None:
            parts.append(_folded(f"Classes of {task_title(task, board)}: {found.label}", *_examined(found)))
    return [tag("h3", {}, "Classes"), *parts] if parts else []


def _examined(found: Examined) -> list[Html]:
    if found.confusion is not None:
        shown = tag("div", {"class": "confusions"}, *confusions(found.confusion, found.classes))
        return [shown, *_per_class(found)]
    return _per_class(found)


def _per_class(found: Examined) -> list[Html]:
    """A row for each class: its metrics, and for several labels the class that is most often above it."""
    metrics = found.result.per_class
    rivals = {rival.name: rival for rival in found.rivals}
    names = [name for name in found.classes if name in rivals or any(name in values for values in metrics.values())]
    if not names:
        return []
    first = next(iter(metrics), "")
    sign = -1 if is_error(first) else 1
    names.sort(key=lambda name: (math.isnan(value := metrics.get(first, {}).get(name, math.nan)), sign * value))
    header = ["class", *(metric_title(name) for name in metrics)]
    header += ["examples", "highest wrong class", "above it in"] if rivals else []
    rows = []
    for name in names:
        values = [_percent(values.get(name, math.nan)) for values in metrics.values()]
        rival = rivals.get(name)
        told = [f"{rival.n:,}", rival.rival or "none", f"{rival.n_above:,}"] if rival else ["0", "", ""]
        rows.append([name, *values, *(told if rivals else [])])
    numeric = [*range(1, 1 + len(metrics)), 1 + len(metrics), 3 + len(metrics)]
    caption = "Classes, the worst first; click a heading to sort."
    return [tag("div", {"class": "sortable"}, table(header, rows, numeric=numeric, caption=caption))]


def _origin(contents: BenchmarkContents) -> Html:
    """What the results were computed with."""
    made: Counter[tuple[str, ...]] = Counter()
    for result in contents.results:
        about = result.provenance
        packages = about.get("packages") or {}
        code = " ".join(str(about[name]) for name in ("birdjepa", "commit") if about.get(name))
        made[code, str(packages.get("torch", "")), str(about.get("cpu", ""))] += 1
    rows = [(*names, f"{count:,}") for names, count in made.most_common()]
    lead = "Versions and machines. Every result's whole configuration is in results.csv."
    return section("origin", "Origin", lead, table(("birdjepa", "torch", "machine", "results"), rows, numeric=(3,)))


def _under(title: str, parts: Sequence[tuple[str, list[Html]]]) -> list[Html]:
    """Parts that are folded one by one, and all together."""
    return [_folded(title, *(_folded(name, *children) for name, children in parts))] if parts else []


def _folded(title: str, *children: Html, is_open: bool = False) -> Html:
    return tag("details", {"open": is_open}, tag("summary", {}, title), join(children))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "n/a"
