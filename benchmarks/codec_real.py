"""A codec on spoken digits that it did not learn from: beside its untrained self, Griffin-Lim at its frame rate, and
silence.

Learns on the official training part of FSDD behind a given encoder (`birdjepa pretrain daam`), and is judged on drawn
recordings of the other part. The run in --out is kept.

    python benchmarks/codec_real.py runs/stage1/encoder --steps 2000 --judged 60
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import common
from real_audio import birdjepa

from birdjepa.core import files
from birdjepa.recipes import pretrain
from birdjepa.recipes.codec_config import PretrainCodecConfig
from birdjepa.recipes.named import codec
from birdjepa.train.sinks import read_metrics

SHOWN = ("mel", "mr_stft", "log_spectral_db", "si_sdr_db", "stoi", "estoi", "pesq_nb")
"""The first three fall as the sound gets nearer, the others rise."""


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--judged", type=int, default=60)
    parser.add_argument("--mel-weight", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the run goes; a temporary folder by default")
    options = parser.parse_args()
    config = run_of(options)
    begun = config.make_objective(config.open_clips(pretrain.open_sources(config)))
    first = {name: tensor.detach() for name, tensor in begun.exported.state_dict().items()}
    config.export(first, config.out.with_name(f"{config.out.name}-untrained"), {"steps": 0}, 0)
    pretrain.start(config, print)
    steps = [row["step_s"] for row in read_metrics(config.out / "metrics.jsonl") if "step_s" in row]
    held_out = config.out.with_name(f"{config.out.name}-judged.csv")
    data = str(options.shared / "fsdd")
    lines = (options.shared / "fsdd" / "metadata.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("split")
    rows = [line for line in lines[1:] if line.split(",")[column] == "test"]
    files.write_text(held_out, "\n".join([lines[0], *(f"{data}/{row}" for row in rows)]) + "\n")
    table = []
    for name, folder in (("untrained", f"{config.out}-untrained/codec"), ("trained", f"{config.out}/codec")):
        asked = ["codec", "eval", folder, str(held_out), "--n", str(options.judged), "--speech", "--json"]
        found = json.loads(birdjepa(*asked))
        table.append({"sound": f"codec, {name}", **row_of(found["means"]["codec"])})
    for floor in ("griffin_lim", "silence"):
        table.append({"sound": floor.replace("_", "-").title(), **row_of(found["means"][floor])})
    notes = [
        f"{options.steps} steps of {config.train.batch_size} stretches of {config.objective.segment_s:g} s, about "
        f"{sum(steps) / len(steps) * options.steps / 60:.0f} minutes by the logged steps; {options.encoder}",
        f"{options.judged} recordings of FSDD's official test part, which the codec did not learn from; 95 % intervals",
        f"rates: {found['rates']}; codes: {found['usage']['least_used']:.0%} of the levels in the least used dimension",
    ]
    common.record("A codec of spoken digits", table, notes, options)


def run_of(options: Any) -> PretrainCodecConfig:
    """The recipe on FSDD's training part."""
    made = codec()
    out = options.out or Path(tempfile.mkdtemp()) / "codec"
    objective = dataclasses.replace(
        made.objective, mel_weight=options.mel_weight, disc_start_step=max(1, options.steps // 2)
    )
    return dataclasses.replace(
        made,
        data=(str(options.shared / "fsdd" / "metadata.csv"),),
        splits=("train",),
        encoder=options.encoder,
        out=out,
        objective=objective,
        report=False,
        train=dataclasses.replace(made.train, steps=options.steps, threads=options.threads),
    )


def row_of(means: dict[str, dict[str, float]]) -> dict[str, str]:
    """Means and intervals as cells."""
    found = {}
    for name in SHOWN:
        each = means.get(name)
        found[name] = f"{each['value']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" if each else ""
    return found


if __name__ == "__main__":
    main()
