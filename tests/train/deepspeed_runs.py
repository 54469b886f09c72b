"""What two processes train under DeepSpeed, all of it in one launch. torchrun starts this:

torchrun --nproc-per-node 2 deepspeed_runs.py SONGS OUT VARIANT...
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from engine_runs import HALF, Results, advance, begin, configurations, go_on, to_hand_over
from torch import Tensor

from birdjepa.core import files, processes
from birdjepa.objectives.lejepa import Lejepa
from birdjepa.recipes.config import PretrainConfig
from birdjepa.train import engine_deepspeed

COMPARED = ("lejepa", "ajepa", "pixio")


class Variant(NamedTuple):
    """A ds_config.json, and what is done with it."""

    zero: dict[str, Any]
    objectives: tuple[str, ...] = COMPARED
    """Compared with one process."""


SMALL_BUCKETS = {"reduce_bucket_size": 3000, "allgather_bucket_size": 3000}
VARIANTS = {
    "zero2": Variant({"stage": 2}),
    "zero0": Variant({"stage": 0}),
    "zero1": Variant({"stage": 1}),
    "zero3": Variant({"stage": 3}),
    "buckets": Variant({"stage": 2, "use_multi_rank_bucket_allreduce": False, **SMALL_BUCKETS}, ("ajepa",)),
    "aligned": Variant({"stage": 1, "parameter_alignment": True, "contiguous_gradients": False}, ("ajepa",)),
    "pieces": Variant(
        {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 1000,
            "sub_group_size": 5000,
            "memory_efficient_linear": False,
            "overlap_comm": True,
            **SMALL_BUCKETS,
        },
        ("ajepa",),
    ),
}


def with_rates(config: PretrainConfig) -> PretrainConfig:
    """Rates that fall from block to block, and a norm of its own, so that no two groups learn alike."""
    optim = dataclasses.replace(config.optim, layer_decay=0.7, head_rate=2.0)
    return dataclasses.replace(
        config, optim=optim, train=dataclasses.replace(config.train, clip_norm=0.1, clip_by="group")
    )


def under(config: PretrainConfig, variant: str, out: Path) -> PretrainConfig:
    """The run with the variant's file, as users have it: auto for what is ours."""
    path = out / f"{variant}.json"
    numbers = dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"), "auto")
    text = json.dumps({**numbers, "zero_optimization": VARIANTS[variant].zero})
    files.write_text(path, text)  # both processes write it: never half of it is there
    train = dataclasses.replace(config.train, engine="deepspeed", deepspeed_config=str(path))
    return dataclasses.replace(config, train=train)


class PoisonedAtThird(Lejepa):
    """A loss that is no number the first time that it comes to its third step."""

    poisoned = False

    def forward(self, batch: Any, chance: Any) -> Any:
        output = super().forward(batch, chance)
        if chance.step != 2 or self.poisoned:
            return output
        self.poisoned = True
        return output._replace(loss=output.loss * float("nan"))


def compare(variant: str, songs: Path, results: Results, out: Path) -> None:
    for name in VARIANTS[variant].objectives:
        config = under(with_rates(configurations(songs, out)[name]), variant, out)
        trainer, clips = begin(config, "deepspeed", out / f"{variant}-{name}")
        rows = advance(trainer, clips, config.train.steps)
        results.keep(f"{variant}-{name}", rows, trainer.state.tensors())


def hand_over(variant: str, songs: Path, results: Results, out: Path) -> None:
    """Saves and goes on, from its own checkpoint and from one process's."""
    config = under(to_hand_over(songs, out), variant, out)
    trainer, clips = begin(config, "deepspeed", out / f"{variant}-half")
    advance(trainer, clips, HALF)
    trainer.save()
    results.keep(f"{variant}-whole", advance(trainer, clips, HALF), trainer.state.tensors())
    for origin in (variant, "single"):
        trainer, clips = begin(config, "deepspeed", out / "resumed")
        go_on(trainer, out / f"{origin}-half")
        results.keep(f"{origin}-then-{variant}", advance(trainer, clips, HALF), trainer.state.tensors())
    results.keep(f"{variant}-exported", [], trainer.state.exported())


def poison(variant: str, songs: Path, results: Results, out: Path) -> None:
    """A bad step leaves the state as it was, and nothing of its gradient."""
    config = under(configurations(songs, out)["lejepa"], variant, out)
    for name, kind in (("clean", Lejepa), ("poisoned", PoisonedAtThird)):
        trainer, clips = begin(config, "deepspeed", out / f"{variant}-{name}")
        trainer.state.objective.__class__ = kind
        advance(trainer, clips, 2)
        if kind is PoisonedAtThird:
            results.tell(f"{variant}-told", lambda: advance(trainer, clips, 1))  # noqa: B023 - called at once
        results.keep(f"{variant}-{name}", advance(trainer, clips, 1), trainer.state.tensors())


def merge_wrongly(variant: str, songs: Path, results: Results, out: Path) -> None:
    """DeepSpeed forgets the other process's pieces; and it looks for pieces in the wrong place, as 0.19.8 does by
    itself with a setting that is refused.
    """
    config = under(configurations(songs, out)["lejepa"], variant, out)

    def own_piece_only(total: Tensor, **_: Any) -> None:
        """An exchange that does not take place."""

    resolved = engine_deepspeed.resolved

    def in_turns(*arguments: Any) -> Any:
        found = resolved(*arguments)
        found.told["zero_optimization"]["round_robin_gradients"] = True
        return found

    with mock.patch.object(engine_deepspeed, "resolved", in_turns):
        results.tell(f"{variant}-round-robin", lambda: begin(config, "deepspeed", out / "wrong"))
    with mock.patch("deepspeed.utils.tensor_fragment.dist.all_reduce", own_piece_only):
        results.tell(f"{variant}-wrong-merge", lambda: begin(config, "deepspeed", out / "wrong"))


def differ(songs: Path, results: Results, out: Path) -> None:
    """Each process has a file of its own, as on machines whose copies are not the same."""
    own = under(configurations(songs, out)["lejepa"], ("zero2", "zero0")[processes.here().rank], out)
    results.tell("differ", lambda: begin(own, "deepspeed", out / "differ"))


def main(songs: Path, out: Path, variants: list[str]) -> None:
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")) as own:
        results = Results(out)
        for variant in variants:
            compare(variant, songs, results, out)
            hand_over(variant, songs, results, out)
            poison(variant, songs, results, out)
        if "zero2" in variants:
            merge_wrongly("zero2", songs, results, out)
            differ(songs, results, out)
        if own.is_first:
            (out / "rows.json").write_text(json.dumps(results.rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
