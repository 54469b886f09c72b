"""Which tasks stand in one table, which means are taken over them, and what a metric is called.

A mean is over a fixed list of tasks and exists only where all of them do: a mean over what happens to be there cannot
be compared with anything. BirdSet's headline leaves out POW, on which models are chosen; the mean over all eight is an
extra, for some publications give only that.

Source: BirdSet's mean over seven is that of arXiv 2403.10380 and 2508.01277; BEANS' sets are those of arXiv 2210.12300.
"""

import dataclasses
from typing import NamedTuple


class Mean(NamedTuple):
    """An unweighted mean over tasks."""

    name: str
    tasks: tuple[str, ...]
    about: str
    is_headline: bool = True
    """An extra is shown beside the headline, and never instead of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """Tasks that are shown in one table."""

    name: str
    suite: str
    title: str
    about: str
    """What one row says, in a sentence."""
    tasks: tuple[str, ...] = ()
    """In the order of the columns; empty where any task of the suite belongs here."""
    means: tuple[Mean, ...] = ()
    shots: str = "per class"
    """What n_train counts."""


_SEVEN = ("per", "nes", "uhh", "hsn", "nbp", "ssw", "sne")
_BEANS = ("beans-watkins", "beans-bats", "beans-cbi", "beans-dogs", "beans-humbugdb")
_AUXILIARY = ("beans-esc50", "beans-speech-commands")
_DETECTION = ("beans-dcase", "beans-enabirds", "beans-hiceas", "beans-rfcx", "beans-hainan-gibbons")
_RETRIEVAL = tuple(f"{name}-retrieval" for name in ("per", "nes", "uhh", "hsn", "ssw", "sne"))

BOARDS = (
    Board(
        name="birdset",
        suite="birdset",
        title="BirdSet",
        about="Soundscape segments of 5 s, several species or none in each.",
        tasks=("pow", *_SEVEN),
        means=(
            Mean("mean7", _SEVEN, "the seven test tasks without POW, on which models are chosen"),
            Mean("mean8", ("pow", *_SEVEN), "all eight, POW included: for comparison with publications", False),
        ),
    ),
    Board(
        name="birb-style",
        suite="birb-style",
        title="Retrieval (BIRB-style)",
        about="k focal exemplars of a species rank all soundscape segments. Made from BirdSet; not the BIRB benchmark.",
        tasks=("pow-retrieval", *_RETRIEVAL),
        means=(Mean("mean6", _RETRIEVAL, "the six regions of BIRB, without POW, on which models are chosen"),),
        shots="k",
    ),
    Board(
        name="beans-classification",
        suite="beans",
        title="BEANS, classification",
        about="One class a recording: species, or individuals of one species.",
        tasks=(*_BEANS, *_AUXILIARY),
        means=(
            Mean("mean5", _BEANS, "the five sets of animals (and mosquitoes)"),
            Mean("mean7", (*_BEANS, *_AUXILIARY), "with the two auxiliary sets", False),
        ),
    ),
    Board(
        name="beans-detection",
        suite="beans",
        title="BEANS, detection",
        about="Windows of long recordings, several classes or none in each; a class that no window has counts 0.",
        tasks=_DETECTION,
        means=(Mean("mean5", _DETECTION, "the five sets"),),
    ),
    Board(
        name="syllables",
        suite="syllables",
        title="Syllables",
        about="Every moment of a song is labelled from the embeddings of its patches.",
        shots="songs",
    ),
    Board(name="general", suite="general", title="General audio", about="Sounds of all kinds, words and voices."),
    Board(name="own", suite="own", title="Own tasks", about="Tasks of your own data."),
)

_TITLES = {
    "cmap": "cmAP",
    "overall": "accuracies and mAPs together",
    "map": "mAP",
    "map_beans": "mAP",
    "auroc": "AUROC",
    "auroc_torchmetrics_1_2": "AUROC as torchmetrics 1.2",
    "species_auroc": "AUROC by species",
    "species_auroc_geometric": "AUROC by species, geometric mean",
    "species_ap": "AP by species",
    "ap": "AP",
    "top1": "top-1",
    "top3": "top-3",
    "macro_f1": "macro-F1",
    "ari": "ARI",
    "v_measure": "V-measure",
    "knn_purity": "kNN purity",
}


def board_of(suite: str, task: str) -> Board:
    """The table that a task's results stand in; a table of its own for a suite that is not known here."""
    mine = [board for board in BOARDS if board.suite == suite]
    for board in mine:
        if not board.tasks or task in board.tasks:
            return board
    title = f"{mine[0].title.partition(',')[0]}, other tasks" if mine else suite
    return Board(
        name=f"{suite}-other" if mine else suite, suite=suite, title=title, about="No mean is taken over these."
    )


def is_error(metric: str) -> bool:
    """Whether less is better: by the house's names, where such a metric is an error or a loss."""
    return "error" in metric or "loss" in metric


def metric_title(metric: str) -> str:
    """A metric as tables call it."""
    return _TITLES.get(metric, metric.replace("_", " "))
