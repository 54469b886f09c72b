"""The main job: recordings in, a pretrained encoder out, in a run folder that can be stopped and resumed at any moment."""

import dataclasses
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from birdjepa.checkpoint import store
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.batch import Refusal
from birdjepa.core.errors import UsageError
from birdjepa.core.provenance import provenance
from birdjepa.data.loader import Clips, batches
from birdjepa.data.sources import Manifest, open_data, split_weight
from birdjepa.models.encoder import Encoder
from birdjepa.optim.groups import parameter_table
from birdjepa.recipes.card import model_card
from birdjepa.recipes.config import PretrainConfig
from birdjepa.train.loop import Trainer, autocast_dtype, pick_device
from birdjepa.train.signals import StopSignal
from birdjepa.train.state import TrainState

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """What a finished run left behind."""

    folder: Path
    refused: dict[str, Refusal]


def start(config: PretrainConfig, say: Say) -> PretrainResult:
    """A new run in config.out.

    Raises:
      UsageError: if the folder holds something already.
      Interrupted, UserError: as `Trainer.run`.
    """
    config.check()
    folder = config.out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists already; go on with --resume {folder}, or choose another --out")
    sources = open_sources(config)
    folder.mkdir(parents=True, exist_ok=True)
    described = {"hash": configs.fingerprint(config), "config": configs.to_json(config)}
    files.write_json(folder / "provenance.json", {**provenance(), "data": {each.name: each.fingerprint() for each in sources}})
    files.write_json(folder / "config.json", described)
    return _run(config, sources, folder, say)


def resume(folder: Path, say: Say) -> PretrainResult:
    """Goes on with a run from its newest intact checkpoint, or from the beginning if it was stopped before the first.

    Raises:
      UsageError: if there is no run, or the data has changed since it began.
    """
    config = read_config(folder)
    sources = open_sources(config)
    before = configs.read_file(folder / "provenance.json")["data"]
    now = {each.name: each.fingerprint() for each in sources}
    if before != now:
        changed = ", ".join(name for name in now if before.get(name) != now[name])
        raise UsageError(f"{folder}: cannot go on exactly, for the data has changed since the run began: {changed}")
    return _run(dataclasses.replace(config, out=folder), sources, folder, say)


def read_config(folder: Path) -> PretrainConfig:
    """Configuration of a run folder.

    Raises:
      UsageError: if the folder holds no run, or its configuration was edited.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no run here (no config.json); start one with --data DATA --out {folder}")
    config = configs.from_json(PretrainConfig, configs.read_file(path), where=str(path))
    return config


def open_sources(config: PretrainConfig) -> list[Manifest]:
    """Manifests of the run's DATA, without their weights, narrowed to its splits."""
    sources = [open_data(split_weight(data)[0], config.columns) for data in config.data]
    if not config.splits:
        return sources
    narrowed = []
    for source in sources:
        split = source.column("split")
        rows = [row for row, name in enumerate(split) if name in config.splits]
        if not rows:
            raise UsageError(f"{source.name}: no rows with split {' or '.join(config.splits)}; there are {', '.join(sorted(set(split)))}")
        narrowed.append(source.select(rows))
    return narrowed


def make_clips(config: PretrainConfig, sources: list[Manifest]) -> Clips:
    """The run's batches of clips."""
    weights = [split_weight(data)[1] for data in config.data]
    return Clips(
        sources,
        weights,
        config.loader,
        sampling_rate=config.front_end.sampling_rate,
        batch_size=config.train.micro_batch,
        seed=config.seed,
    )


def _run(config: PretrainConfig, sources: list[Manifest], folder: Path, say: Say) -> PretrainResult:
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = pick_device(config.train.device)
    clips = make_clips(config, sources)
    encoder = config.encoder_config().build().initialise(config.seed)
    objective = config.objective.build(encoder, config.seed)
    with _only_one(folder):
        state = TrainState(
            objective, config.optim, config.train, n_classes=len(clips.classes), seed=config.seed, device=device
        )
        found = store.latest(folder / "checkpoints", warn=say)
        if found:
            state.restore(found)
            say(f"going on from step {state.step} of {config.train.steps}")
        trainer = Trainer(
            state, config.train, config.schedule, folder, seed=config.seed, max_refused=config.loader.max_refused
        )
        if not found:
            _introduce(config, clips, state, device, say)
        with StopSignal() as signal:
            refused = trainer.run(lambda first, last: batches(clips, first, last), configs.to_json(config), stop=signal.stop, say=say)
        _write_refused(folder, refused)
        export(config, state, folder, clips.n_recordings)
    return PretrainResult(folder, refused)


def export(config: PretrainConfig, state: TrainState, folder: Path, n_recordings: int) -> Path:
    """Writes the run's encoder folder."""
    encoder = config.encoder_config().build()
    encoder.load_state_dict(state.exported_encoder())
    origin = {**provenance(), "run_hash": configs.fingerprint(config), "seed": config.seed, "steps": state.step}
    return encoder.save(folder / "encoder", card=model_card(config, encoder, n_recordings), provenance=origin)


def _introduce(config: PretrainConfig, clips: Clips, state: TrainState, device: torch.device, say: Say) -> None:
    """What is about to happen, in a few lines: data, model, groups, fingerprint."""
    encoder: Encoder = state.objective.encoder
    grid = encoder.grid(encoder.front_end.config.n_frames(round(config.clips.clip_s * encoder.sampling_rate)))
    precision = autocast_dtype(config.train.precision, device)
    say(f"data: {clips.n_recordings} recordings, {clips.order.epoch_length} clips of {config.loader.clip_s:g} s an epoch")
    say(
        f"encoder: {config.encoder.size}, {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, "
        f"{len(grid)} tokens per {config.clips.clip_s:g} s, {1000 * config.patch.frames / config.front_end.frame_rate:g} ms each"
    )
    rows = parameter_table(state.objective)
    for group in state.optimiser.param_groups:
        mine = [row for row in rows if row.group == group["name"]]
        shapes = sum(torch.Size(row.shape).numel() for row in mine)
        say(
            f"optimiser: {group['name']:<8} {len(mine):>4} tensors {shapes / 1e6:>7.2f} M numbers  "
            f"lr {config.optim.lr:g}  weight decay {group['weight_decay']:g}"
        )
    say(
        f"run {configs.fingerprint(config)}: {config.train.steps} steps of {config.train.batch_size} clips, seed {config.seed}, "
        f"{device}, {'bf16' if precision else 'fp32'}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _write_refused(folder: Path, refused: dict[str, Refusal]) -> None:
    rows: list[dict[str, Any]] = [
        {"path": each.path, "stage": "decode", "reason": each.reason} for each in sorted(refused.values())
    ]
    if rows:
        files.write_csv(folder / "failures.csv", ("path", "stage", "reason"), rows)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuses a second process on the same run folder."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{folder}: another process is running this run") from None
        yield
