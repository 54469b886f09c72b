"""The main job: recordings in, a pretrained encoder out, in a run folder that can be stopped and resumed any time."""

import dataclasses
import datetime
import fcntl
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from birdjepa.checkpoint import store
from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.batch import Refusal
from birdjepa.core.errors import UsageError, UserError
from birdjepa.core.provenance import provenance
from birdjepa.data.loader import Clips, batches, worker_errors
from birdjepa.data.sources import Manifest, open_data, split_weight
from birdjepa.models.encoder import Encoder
from birdjepa.optim.groups import parameter_table
from birdjepa.recipes.card import model_card
from birdjepa.recipes.config import PretrainConfig
from birdjepa.train.loop import NonFinite, Trainer, autocast_dtype, pick_device
from birdjepa.train.signals import StopSignal
from birdjepa.train.sinks import require_extras
from birdjepa.train.state import TrainState

Say = Callable[[str], None]
LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class PretrainResult:
    """What a finished run left behind."""

    folder: Path
    config: PretrainConfig
    refused: dict[str, Refusal]


def start(config: PretrainConfig, say: Say) -> PretrainResult:
    """A new run in config.out.

    Raises:
      UsageError: if the folder holds something already.
      Interrupted, UserError: as `Trainer.run`.
    """
    config.check()
    require_extras(config.train.sinks)
    folder = config.out
    _require_free(folder, config)
    sources = open_sources(config)
    with _only_one(folder), StopSignal() as signal:
        _require_free(folder, config)
        clips = make_clips(config, sources)
        files.write_json(folder / "provenance.json", _origin(config, sources))
        described = {"hash": configs.fingerprint(config), "config": configs.to_json(config)}
        files.write_json(folder / "config.json", described)
        return _run(config, clips, folder, signal, say)


def resume(folder: Path, say: Say) -> PretrainResult:
    """Goes on with a run from its newest intact checkpoint, or from the beginning if it was stopped before the first.

    Raises:
      UsageError: if there is no run, or the data has changed since it began.
      Interrupted, UserError: as `Trainer.run`.
    """
    config = read_config(folder)
    with _only_one(folder), StopSignal() as signal:
        sources = open_sources(config)
        _compare_origin(configs.read_file(folder / "provenance.json"), _origin(config, sources), folder, say)
        return _run(config, make_clips(config, sources), folder, signal, say)


def read_config(folder: Path) -> PretrainConfig:
    """Configuration of a run folder.

    Raises:
      UsageError: if the folder holds no run, or its configuration was edited.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: no run here (no config.json); start one with --data DATA --out {folder}")
    config = configs.from_json(PretrainConfig, configs.read_file(path), where=str(path))
    if json.loads(path.read_text(encoding="utf-8")).get("hash") != configs.fingerprint(config):
        raise UsageError(f"{path}: was edited, so the run cannot go on; start a new one with --config {path} --out NEW")
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
            there = ", ".join(sorted(set(split)))
            raise UsageError(f"{source.name}: no rows with split {' or '.join(config.splits)}; there are {there}")
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


def _run(config: PretrainConfig, clips: Clips, folder: Path, signal: StopSignal, say: Say) -> PretrainResult:
    device = pick_device(config.train.device)
    encoder = config.encoder_config().build().initialise(config.seed)
    objective = config.objective.build(encoder, config.seed)
    n_classes = len(clips.classes)
    state = TrainState(objective, config.optim, config.train, n_classes=n_classes, seed=config.seed, device=device)
    found = store.latest(folder / "checkpoints", warn=say)
    if found:
        state.restore(found)
        say(f"going on from step {state.step} of {config.train.steps}")
    else:
        _introduce(config, clips, state, device, say)
    trainer = Trainer(
        state, config.train, config.schedule, folder, seed=config.seed, max_refused=config.loader.max_refused
    )
    try:
        with worker_errors():
            trainer.run(functools.partial(batches, clips), configs.to_json(config), stop=signal.stop, say=say)
    except NonFinite as error:
        heard = ", ".join(clips.path(number) for number in error.recordings[:4])
        raise UserError(f"{error}, or look at its {len(error.recordings)} recordings: {heard} ...") from error
    finally:
        _write_refused(folder, state.refused)
    export(config, state, folder, clips.n_recordings)
    return PretrainResult(folder, config, state.refused)


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
    patch_ms = 1000 * config.patch.frames / config.front_end.frame_rate
    precision = autocast_dtype(config.train.precision, device)
    n_clips = clips.order.epoch_length
    say(f"data: {clips.n_recordings} recordings, {n_clips} clips of {config.loader.clip_s:g} s an epoch")
    say(
        f"encoder: {config.encoder.size}, {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, "
        f"{len(grid)} tokens per {config.clips.clip_s:g} s, {patch_ms:g} ms each"
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
        f"run {configs.fingerprint(config)}: {config.train.steps} steps of {config.train.batch_size} clips, "
        f"seed {config.seed}, {device}, {'bf16' if precision else 'fp32'}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )


def _origin(config: PretrainConfig, sources: list[Manifest]) -> dict[str, Any]:
    """What the run's numbers depend on besides its configuration."""
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    data = {source.name: source.fingerprint() for source in sources}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**provenance(), "started": started, "n_threads": torch.get_num_threads(), "data": data}


def _compare_origin(before: dict[str, Any], now: dict[str, Any], folder: Path, say: Say) -> None:
    """Other data is refused; another machine or version is told, for the run will not be the same to the last bit.

    Raises:
      UsageError: naming the data that has changed.
    """
    if before.get("data") != now["data"]:
        changed = configs.difference(before.get("data"), now["data"])
        raise UsageError(
            f"{folder}: cannot go on exactly, for the data has changed since the run began: {'; '.join(changed)}"
        )
    for name in ("packages", "cpu", "n_threads", "commit"):
        for line in configs.difference(before.get(name), now[name], where=name):
            say(f"not the same to the last bit any more: {line}")


def _write_refused(folder: Path, refused: dict[str, Refusal]) -> None:
    """failures.csv with the columns of a scan's, where there is anything to list."""
    header = ("path", "stage", "offset_s", "reason")
    rows = [
        {**each._asdict(), "stage": "decode", "offset_s": f"{each.offset_s:.6g}"} for each in sorted(refused.values())
    ]
    if rows:
        files.write_csv(folder / "failures.csv", header, rows)


def _require_free(folder: Path, config: PretrainConfig) -> None:
    """Refuses a folder that holds anything but a lock; where it holds a run, says how that one differs."""
    if not folder.exists() or (folder.is_dir() and not {path.name for path in folder.iterdir()} - {LOCK}):
        return
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: exists already; choose another --out")
    saved = configs.read_file(folder / "config.json")
    differs = configs.difference(saved, configs.to_json(config))
    how = f"; what you ask for differs: {', '.join(differs[:3])}" if differs else ""
    raise UsageError(f"{folder}: holds a run already; go on with --resume {folder}, or choose another --out{how}")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuses a second process on the same run folder. The lock is the process's own: flock's would outlive it in its
    workers.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made or written to ({error.strerror}); choose another --out") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{folder}: another process is running this run") from None
        yield
