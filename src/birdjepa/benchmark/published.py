"""Numbers that others published, to stand beside ours: each with its source and how far it can be trusted.

They are literature, never run by us, and made under recipes that differ from ours (the data's augmentation above all),
so a table keeps them apart. Where sources contradict each other all of them are here. What no source says is not here:
a missing number is no zero.

The file holds tables as they were published, digits included: `scale` 100 are percent, 1 are shares.
"""

import dataclasses
import decimal
import functools
import json
from importlib import resources
from typing import Any, Literal

Kind = Literal["probe", "trained", "own head", "zero-shot", "not stated"]
"""probe: a classifier on a frozen backbone; trained: fine-tuned or trained on the task; own head: the model's own
classifier, restricted to the task's classes. Numbers of two kinds cannot be compared."""
TRUST = {
    "src": "read in result files that the authors published",
    "2nd": "quoted by a third party, not checked against the paper",
    "issue": "from a public thread",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One published number."""

    board: str
    """Name of the board (`suites.BOARDS`) that it belongs to."""
    task: str
    """Or the name of a mean (mean7), or "average": a mean that the source does not define further."""
    model: str
    head: str
    kind: Kind
    metric: str
    value: float
    """As a share, whatever the source's unit."""
    upper: float | None
    """The upper end where sources give a range; then value is the lower end."""
    n_digits: int
    """Digits behind the point that the source gives, in percent."""
    source: str
    trust: str
    """A key of `TRUST`."""
    regime: str
    """What it was trained on, where that is known: DT the task's own recordings, LT all of BirdSet's."""
    note: str

    @property
    def percent(self) -> str:
        """The number in percent, with the source's digits."""
        ends = (self.value,) if self.upper is None else (self.value, self.upper)
        return " to ".join(f"{100 * end:.{self.n_digits}f}" for end in ends)


@functools.cache
def published() -> tuple[Published, ...]:
    """All of them, in the order of their tables."""
    text = resources.files("birdjepa.benchmark").joinpath("published.json").read_text(encoding="utf-8")
    tables = json.loads(text, parse_float=decimal.Decimal)
    return tuple(each for table in tables for row in table["rows"] for each in _row(table, row))


def _row(table: dict[str, Any], row: dict[str, Any]) -> list[Published]:
    uppers = row.get("upper", [None] * len(row["values"]))
    found = []
    for task, value, upper in zip(table["columns"], row["values"], uppers, strict=True):
        if value is None:
            continue
        digits = -value.as_tuple().exponent - (0 if table["scale"] == 100 else 2)
        found.append(
            Published(
                board=table["board"], task=task, model=row["model"], head=row["head"], kind=row["kind"],
                metric=table["metric"], value=float(value / table["scale"]),
                upper=None if upper is None else float(upper / table["scale"]), n_digits=digits,
                source=table["source"], trust=table["trust"], regime=table["regime"], note=row.get("note", ""),
            )
        )  # fmt: skip
    return found
