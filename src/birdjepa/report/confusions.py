"""Which classes are taken for which: a matrix, and the commonest confusions in words.

Axes: c classes
"""

import numpy as np
from jaxtyping import Int

from birdjepa.report.html import Html, join, note, table, tag

MAX_MATRIX = 40
"""Classes of a confusion matrix that is drawn whole; of more, those of the commonest confusions."""
MAX_COUNTS = 16
"""Classes up to which cells hold their counts."""


def confusions(confusion: Int[np.ndarray, "c c"], classes: tuple[str, ...]) -> list[Html]:
    """A matrix (row = truth, column = prediction) and a table of the commonest confusions, side by side."""
    n, large = len(classes), len(classes) > MAX_MATRIX
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: 12 if large else 6]
    pairs = [(int(i) // n, int(i) % n) for i in order if wrong.flat[i] > 0]
    shown = sorted({i for pair in pairs for i in pair}) if large else list(range(n))
    parts = []
    if shown:
        caption = "Rows are the truth, columns what was predicted; shades are shares of a row, the diagonal is right."
        if large:
            caption += f" Drawn are the {len(shown)} of {n} classes with the commonest confusions."
        names = tuple(classes[i] for i in shown)
        matrix = _matrix(confusion[np.ix_(shown, shown)], names, confusion[shown].sum(axis=1))
        width = {"style": f"flex-basis:{_side(names):.0f}px"}
        parts.append(tag("figure", width, matrix, tag("figcaption", {}, caption)))
    if pairs:
        rows = [(classes[i], classes[j], f"{wrong[i, j]} of {confusion[i].sum()}") for i, j in pairs]
        parts.append(table(("truth", "taken for", "how often"), rows, numeric=(2,), caption="Commonest confusions"))
    return parts or [note("Nothing was confused.")]


def _matrix(confusion: Int[np.ndarray, "c c"], classes: tuple[str, ...], totals: Int[np.ndarray, " c"]) -> Html:
    """totals are the examples of each class, also where not all predictions are drawn."""
    n = len(classes)
    cell, size = _cell_and_type(n)
    margin, side = _margin(classes), _side(classes)
    totals = totals.clip(1)
    marks = []
    for i, name in enumerate(classes):
        middle = margin + (i + 0.5) * cell
        at = {"x": margin - 7, "y": middle + 0.35 * size, "text-anchor": "end", "font-size": size}
        marks.append(tag("text", at, _clip(name), tag("title", {}, name)))
        above = {"transform": f"translate({middle + 0.35 * size:.1f} {margin - 7:.1f}) rotate(-90)", "font-size": size}
        marks.append(tag("text", above, _clip(name), tag("title", {}, name)))
    for i, j in zip(*np.nonzero((confusion > 0) | np.eye(n, dtype=bool)), strict=True):
        count, share = int(confusion[i, j]), float(confusion[i, j] / totals[i])
        x, y = margin + int(j) * cell, margin + int(i) * cell
        said = (
            f"{classes[i]}: {count} of {totals[i]} taken for {classes[j]}"
            if i != j
            else f"{classes[i]}: {count} of {totals[i]} right"
        )
        shade = {
            "class": "cell",
            "x": x + 1,
            "y": y + 1,
            "width": cell - 2,
            "height": cell - 2,
            "fill-opacity": 0.06 + 0.94 * share,
        }
        marks.append(tag("rect", shade, tag("title", {}, said)))
        if i == j:
            marks.append(
                tag("rect", {"class": "diagonal", "x": x + 1, "y": y + 1, "width": cell - 2, "height": cell - 2})
            )
        if n <= MAX_COUNTS and count:
            at = {
                "class": "count strong" if share > 0.5 else "count",
                "x": x + cell / 2,
                "y": y + cell / 2 + 4,
                "text-anchor": "middle",
            }
            marks.append(tag("text", at, str(count)))
    box = {
        "class": "matrix",
        "viewBox": f"0 0 {side:.0f} {side:.0f}",
        "role": "img",
        "aria-label": "Confusion matrix",
        "style": f"max-width:{side:.0f}px",
    }
    return tag("svg", box, join(marks))


def _cell_and_type(n_classes: int) -> tuple[float, float]:
    """Sides of a cell and of its names' type."""
    return (34.0, 11.0) if n_classes <= MAX_COUNTS else (16.0, 9.5)


def _margin(classes: tuple[str, ...]) -> float:
    """Room for the longest name."""
    return 12 + max(len(_clip(name)) for name in classes) * _cell_and_type(len(classes))[1] * 0.58


def _side(classes: tuple[str, ...]) -> float:
    """Width and height of the matrix."""
    return _margin(classes) + len(classes) * _cell_and_type(len(classes))[0] + 6


def _clip(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
