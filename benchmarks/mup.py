"""muP shown on real audio: activations that do not grow with the width, and a learning rate that stays the best.

A supervised transformer of two blocks on ESC-10 (all 400 clips, 40 tokens each), in the standard parameterisation (SP)
and in muP with base width 64, by AdamW and by Muon.

coordinates: a few steps at a large rate; the mean size of each module's output against the width, as the slope of a
straight line in log-log. Near 0 is flat: the module learns alike at every width.
transfer: the final loss (mean over the last steps) for widths and learning rates a factor of 2 apart. muP keeps its
promise if the best rate moves by one such factor at most from the narrowest model to the widest.

Finished cells of --cells are kept, so the same command goes on where it was stopped.

    python benchmarks/mup.py coordinates
    python benchmarks/mup.py transfer --cells /tmp/mup_cells.json --plot docs/mup.svg
"""

import argparse
import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from torch import Tensor, nn

from birdjepa.audio.decode import read_clip
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import files, random
from birdjepa.core.batch import ClipBatch
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data
from birdjepa.models.patch import PatchConfig
from birdjepa.models.vit import VitConfig
from birdjepa.objectives.augment import AugmentConfig
from birdjepa.objectives.base import Chance, DataSize, Objective
from birdjepa.objectives.supervised import SupervisedConfig
from birdjepa.optim import OPTIMISERS, mup
from birdjepa.optim.schedules import ScheduleConfig, factor
from birdjepa.recipes.config import PretrainConfig
from birdjepa.report.charts import Axis
from birdjepa.report.html import Html, tag

BASE, HEAD, DEPTH = 64, 32, 2
RATE, CLIP_S = 16_000, 5.0
SCHEDULE = ScheduleConfig(shape="cosine", warmup=0.1)
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TITLES = {"adamw": "AdamW", "muon": "Muon"}
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#cc79a7")


class Task(NamedTuple):
    """Clips in memory and what they are."""

    clips: Tensor
    label: Tensor
    n_classes: int

    def batch(self, step: int, size: int) -> ClipBatch:
        """Clips number step * size on of an order that is the same for every cell."""
        epoch, first = divmod(step * size, len(self.clips) // size * size)
        order = torch.from_numpy(random.generator(0, "order", epoch).permutation(len(self.clips)))
        rows = order[first : first + size]
        labels = nn.functional.one_hot(self.label[rows], self.n_classes).bool()
        clips = self.clips[rows]
        whole = torch.full((len(rows),), clips.shape[1])
        return ClipBatch(clips=clips, lengths=whole, label=self.label[rows], labels=labels, recording=rows, refused=())


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run."""

    optimiser: str
    parameterisation: str
    width: int
    lr: float
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.optimiser} {self.parameterisation} {self.width} {self.lr:.6g} {self.seed}"


def esc10(folder: Path) -> Task:
    """All clips of the set, decoded to 16 kHz once."""
    manifest = open_data(str(folder / "metadata.csv"), ColumnConfig())
    names = sorted(set(manifest.column("label")))
    n_samples = round(CLIP_S * RATE)
    clips = np.zeros((len(manifest), n_samples), np.float32)
    for row in range(len(manifest)):
        read = read_clip(manifest.path(row), RATE, duration_s=CLIP_S)
        clips[row, : min(len(read), n_samples)] = read[:n_samples]
    return Task(
        torch.from_numpy(clips), torch.tensor([names.index(name) for name in manifest.column("label")]), len(names)
    )


def configuration(width: int) -> PretrainConfig:
    """10 x 4 patches of 40 values: no more than the base width, so that no rate suits the first layer alone."""
    unaltered = AugmentConfig(gain_db=0.0, mix_probability=0.0, mask_mels=0, mask_share=0.0)
    return PretrainConfig(
        front_end=LogMelConfig(sampling_rate=RATE, window=3200, hop=1600, n_mels=32, f_max=RATE / 2, normalise="clip"),
        patch=PatchConfig(frames=5, mels=8),
        encoder=VitConfig(size=f"{width}x{DEPTH}x{width // HEAD}"),
        pooling="mean",
        objective=SupervisedConfig(augment=unaltered),
    )


def built(cell: Cell, n_classes: int) -> tuple[Objective, torch.optim.Optimizer]:
    """The model of a cell, and its optimiser."""

    def at(width: int) -> Objective:
        config = configuration(width)
        encoder = config.encoder_config().build().initialise(cell.seed)
        return config.objective.build(encoder, cell.seed, DataSize(400, n_classes))

    objective, rates = at(cell.width), None
    if cell.parameterisation == "muP":
        mup.rescale(objective, at(BASE))
        rates = mup.width_rates(objective, at(BASE))
    return objective, OPTIMISERS[cell.optimiser](lr=cell.lr).build(objective, rates)


def train(
    cell: Cell, task: Task, steps: int, size: int, schedule: ScheduleConfig = SCHEDULE
) -> tuple[Objective, list[float]]:
    """The model after its steps, and the loss of each."""
    objective, optimiser = built(cell, task.n_classes)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = cell.lr * group["rate"] * factor(step, steps, schedule)
        optimiser.zero_grad(set_to_none=True)
        loss = objective(task.batch(step, size), Chance(cell.seed, step, steps)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
    return objective, losses


# Coordinate check


def sizes(objective: Objective, batch: ClipBatch) -> dict[str, float]:
    """Mean absolute output of the parts of the model on a batch."""
    found: dict[str, float] = {}
    vit = objective.encoder.vit
    parts: dict[str, nn.Module] = {"embed": vit.embed}
    for number, block in enumerate(vit.blocks):
        parts |= {
            f"block {number} attention": block.attention,
            f"block {number} mlp": block.mlp,
            f"block {number}": block,
        }
    parts["logits"] = objective.head

    def keep(name: str, _: nn.Module, __: object, output: Tensor) -> None:
        found[name] = float(output.detach().abs().mean())

    hooks = [part.register_forward_hook(functools.partial(keep, name)) for name, part in parts.items()]
    with torch.no_grad():
        objective(batch, Chance(0, 0, 1))
    for hook in hooks:
        hook.remove()
    return found


def slopes(
    optimiser: str,
    parameterisation: str,
    widths: Sequence[int],
    task: Task,
    *,
    lr: float,
    steps: int = 4,
    seeds: int = 2,
    size: int = 16,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """d log(size) / d log(width) of each part after the steps, and the sizes themselves, means over seeds."""
    seen: dict[str, list[float]] = {}
    constant = ScheduleConfig(shape="constant", warmup=0.0)
    for width in widths:
        each = [
            sizes(
                train(Cell(optimiser, parameterisation, width, lr, seed), task, steps, size, constant)[0],
                task.batch(0, size),
            )
            for seed in range(seeds)
        ]
        for name in each[0]:
            seen.setdefault(name, []).append(statistics.fmean(one[name] for one in each))
    logs = np.log2(widths)
    return {name: float(np.polyfit(logs, np.log2(values), 1)[0]) for name, values in seen.items()}, seen


LARGE = {"adamw": 2.0**-6, "muon": 2.0**-3}
"""Rates that are some times the best one, so that what grows is seen within a few steps."""
FLAT = 0.15
"""Slopes up to this are called flat: a factor of 1.5 over a factor of 16 in width."""


def coordinates(options: argparse.Namespace) -> None:
    task = esc10(options.shared / "esc10")
    rows = []
    for optimiser in options.optimisers:
        for parameterisation in ("SP", "muP"):
            slope, seen = slopes(optimiser, parameterisation, options.widths, task, lr=LARGE[optimiser])
            steepest = max(slope, key=lambda name: slope[name])
            rows.append(
                {
                    "optimiser": optimiser,
                    "parameterisation": parameterisation,
                    "flat": "yes" if slope[steepest] < FLAT else "no",
                    **{name: f"{value:+.2f}" for name, value in slope.items()},
                    "steepest": f"{steepest}: {' '.join(f'{value:.3g}' for value in seen[steepest])}",
                }
            )
            print(rows[-1], flush=True)
    rates = ", ".join(f"{name} {LARGE[name]:g}" for name in options.optimisers)
    notes = [
        f"slopes of log mean |output| against log width, widths {', '.join(map(str, options.widths))}, after 4 steps "
        f"of 16 clips of ESC-10 at a large rate ({rates}), means over 2 seeds; base width {BASE}, heads of {HEAD}",
        f"flat: no part grows by more than width^{FLAT}; a readout of muP may shrink at first, for it begins at 1 / m",
    ]
    common.record("muP: coordinate check", rows, notes, options)


# Transfer of the learning rate


def transfer(options: argparse.Namespace) -> None:
    cells = [
        Cell(optimiser, parameterisation, width, 2.0**power, seed)
        for seed in range(options.seeds)
        for optimiser in options.optimisers
        for width in options.widths
        for parameterisation in ("SP", "muP")
        for power in options.powers
        if not (width == BASE and parameterisation == "muP")  # at the base width both are the same
    ]
    kept: dict[str, float | None] = json.loads(options.cells.read_text()) if options.cells.exists() else {}
    todo = [cell for cell in cells if cell.name not in kept]
    task = esc10(options.shared / "esc10") if todo else None
    for cell in todo:
        assert task is not None
        began = time.perf_counter()
        losses = train(cell, task, options.steps, options.batch)[1]
        final = statistics.fmean(losses[-options.last :])
        kept[cell.name] = final if math.isfinite(final) else None
        files.write_json(options.cells, kept)
        print(f"{cell.name}: {final:.4f} ({time.perf_counter() - began:.0f} s)", flush=True)
    loss = {cell: math.inf if (value := kept[cell.name]) is None else value for cell in cells}
    rows, notes, curves = [], [], {}
    for optimiser in options.optimisers:
        for parameterisation in ("SP", "muP"):
            best = {}
            for width in options.widths:
                of = parameterisation if width != BASE else "SP"
                curve = [
                    statistics.fmean(
                        loss[Cell(optimiser, of, width, 2.0**power, seed)] for seed in range(options.seeds)
                    )
                    for power in options.powers
                ]
                curves[optimiser, parameterisation, width] = curve
                best[width] = options.powers[int(np.argmin(curve))]
                shown = {f"2^{power}": value for power, value in zip(options.powers, curve, strict=True)}
                rows.append(
                    {
                        "optimiser": optimiser,
                        "parameterisation": parameterisation,
                        "width": width,
                        "best": f"2^{best[width]}",
                        **shown,
                    }
                )
            narrow, wide = options.widths[0], options.widths[-1]
            most = max(abs(power - best[narrow]) for power in best.values())
            notes.append(
                f"{optimiser}, {parameterisation}: the best rate moves by 2^{best[wide] - best[narrow]} from width "
                f"{narrow} to {wide}, and by a factor of {2**most} at most: "
                f"{'within' if most <= 1 else 'beyond'} one step of the grid"
            )
    setting = (
        f"mean loss of the last {options.last} of {options.steps} steps of {options.batch} clips of ESC-10, {DEPTH} "
        f"blocks, heads of {HEAD}, warm-up over a tenth and a cosine, mean over {options.seeds} seed(s), the same "
        f"clips in the same order for all; muP's base width {BASE}"
    )
    notes.insert(0, setting)
    if options.plot:
        files.write_text(options.plot, drawn(curves, options.powers), durable=False)
    common.record("muP: transfer of the learning rate", rows, notes, options)


def drawn(curves: dict[tuple[str, str, int], list[float]], powers: Sequence[int]) -> Html:
    """A picture for each optimiser and parameterisation: loss against learning rate, a line for each width."""
    panels = list(dict.fromkeys(key[:2] for key in curves))
    width, height, columns = 330, 250, 2
    n_rows = -(-len(panels) // columns)
    finite = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    low, high = min(finite), min(max(finite), 2.5)
    marks = []
    for number, panel in enumerate(panels):
        left, top = width * (number % columns), height * (number // columns)
        x = Axis(powers[0], powers[-1], left + 44, left + width - 14)
        y = Axis(low - 0.03 * (high - low), high, top + height - 40, top + 30)
        marks.append(
            tag(
                "text",
                {"x": left + 44, "y": top + 18, "class": "title"},
                f"{TITLES[panel[0]]}, {panel[1]}: final loss",
            )
        )
        for tick in y.ticks(5):
            marks.append(tag("line", {"class": "grid", "x1": x.start, "x2": x.end, "y1": y(tick), "y2": y(tick)}))
            marks.append(tag("text", {"x": x.start - 6, "y": y(tick) + 3.5, "text-anchor": "end"}, f"{tick:.3g}"))
        for power in powers[::2]:
            marks.append(
                tag(
                    "text",
                    {"x": x(power), "y": y.start + 16, "text-anchor": "middle"},
                    f"2{str(power).translate(RAISED)}",
                )
            )
        marks.append(
            tag("text", {"x": (x.start + x.end) / 2, "y": y.start + 32, "text-anchor": "middle"}, "learning rate")
        )
        for colour, key in zip(COLOURS, [key for key in curves if key[:2] == panel], strict=False):
            points = [(x(power), y(min(value, high))) for power, value in zip(powers, curves[key], strict=True)]
            path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in points)
            best = points[int(np.argmin(curves[key]))]
            marks.append(tag("path", {"d": path, "fill": "none", "stroke": colour, "stroke-width": 1.8}))
            marks.append(tag("circle", {"cx": best[0], "cy": best[1], "r": 4.5, "fill": colour}))
    widths = list(dict.fromkeys(key[2] for key in curves))
    bottom = height * n_rows
    for number, (colour, each) in enumerate(zip(COLOURS, widths, strict=False)):
        marks.append(tag("circle", {"cx": 60 + 120 * number, "cy": bottom + 12, "r": 4.5, "fill": colour}))
        marks.append(tag("text", {"x": 70 + 120 * number, "y": bottom + 16}, f"width {each}"))
    style = (
        "svg{font:11px system-ui,sans-serif;background:#fff}text{fill:#333}.title{font-size:13px;font-weight:600}"
        ".grid{stroke:#ddd;stroke-width:1}"
    )
    box = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {width * columns} {bottom + 26}",
        "width": width * columns,
    }
    return tag("svg", box, tag("style", {}, style), *marks)


def main() -> None:
    parser = common.arguments(__doc__)
    verbs: dict[str, Callable[[argparse.Namespace], None]] = {"coordinates": coordinates, "transfer": transfer}
    parser.add_argument("what", choices=verbs)
    parser.add_argument("--optimisers", nargs="+", default=["adamw"], choices=OPTIMISERS)
    parser.add_argument(
        "--widths", nargs="+", type=int, help="default: 64 to 1024 for coordinates, to 512 for transfer"
    )
    parser.add_argument("--powers", nargs="+", type=int, default=list(range(-12, -4)), help="learning rates 2^power")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--last", type=int, default=20, help="steps whose mean loss is the final one")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", type=Path, default=Path("mup_cells.json"), help="finished runs of the transfer")
    parser.add_argument("--plot", type=Path, help="SVG of the transfer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.widths = options.widths or [64, 128, 256, 512, *([1024] if options.what == "coordinates" else [])]
    verbs[options.what](options)


if __name__ == "__main__":
    main()
