"""The loop: what a step changes, what stops it, and what it leaves behind when it does."""

import dataclasses

import pytest
import torch
from tiny_run import metrics, tiny, write_songs

from birdjepa.checkpoint import store
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UsageError, UserError
from birdjepa.core.failures import Failure
from birdjepa.core.hardware import has_bf16
from birdjepa.data.loader import Clips, batches
from birdjepa.data.sources import open_data
from birdjepa.objectives.base import DataSize
from birdjepa.objectives.lejepa import Lejepa
from birdjepa.optim.groups import parameter_table
from birdjepa.optim.schedules import factor
from birdjepa.recipes.pretrain import make_clips
from birdjepa.train.config import MonitorConfig, OnlineProbeConfig
from birdjepa.train.engine import SingleEngine
from birdjepa.train.loop import NonFinite, Trainer, autocast_dtype, pick_device
from birdjepa.train.state import TrainState


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    return write_songs(tmp_path_factory.mktemp("songs"), 8)


def make(songs, folder, **settings) -> tuple[Trainer, Clips]:
    """A trainer at step 0 and its clips."""
    config = tiny(songs, folder, **settings)
    clips = make_clips(config, [open_data(str(songs))])
    objective = config.objective.build(
        config.encoder_config().build().initialise(config.seed), config.seed, DataSize(8, 2)
    )
    state = TrainState(
        objective, config.optim, config.train, n_classes=2, seed=config.seed, engine=SingleEngine(torch.device("cpu"))
    )
    folder.mkdir(exist_ok=True)
    return Trainer(state, config.train, config.schedule, folder, seed=config.seed, max_refused=0.05), clips


def run(trainer, clips, **kwargs):
    said = []
    trainer.run(lambda first, last: batches(clips, first, last), {}, stop=lambda: False, say=said.append, **kwargs)
    return said


def step(trainer, clips):
    accumulate = trainer.config.accumulate
    first = trainer.state.step * accumulate
    return trainer.update([clips.batch(number) for number in range(first, first + accumulate)])


def snapshot(state):
    return {name: tensor.clone() for name, tensor in state.tensors().items()}


def changed(before, state):
    return {name for name, tensor in state.tensors().items() if not torch.equal(tensor, before[name])}


def test_one_step_changes_what_the_table_declares(songs, tmp_path):
    """The second step, for at the first one the warm-up may leave nothing to see."""
    trainer, clips = make(songs, tmp_path)
    step(trainer, clips)
    before = snapshot(trainer.state)
    step(trainer, clips)
    names = {
        name.removeprefix("objective.") for name in changed(before, trainer.state) if name.startswith("objective.")
    }
    trained = {row.name for row in parameter_table(trainer.state.objective)}
    buffers = {name for name in trainer.state.objective.state_dict() if "running" in name or "batches" in name}
    assert names == trained | buffers
    assert len(trained) == len([p for p in trainer.state.objective.parameters() if p.requires_grad and p.numel()])


def test_the_learning_rate_follows_the_schedule(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, steps=6)
    for number in range(3):
        step(trainer, clips)
        lr = {group["lr"] for group in trainer.state.optimiser.param_groups}
        assert lr == {1e-3 * factor(number, 6, trainer.schedule)}


def test_accumulated_gradients_are_the_mean_over_micro_batches(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, precision="fp32", clip_norm=0.0)
    feed = [clips.batch(0), clips.batch(1)]
    parts = []
    for micro in range(2):
        trainer.state.objective.zero_grad()
        output = trainer.state.objective(feed[micro], trainer.chance(micro))
        output.loss.backward()
        parts.append(
            {name: p.grad.clone() for name, p in trainer.state.objective.named_parameters() if p.grad is not None}
        )
    update = trainer.update(feed)
    for name, parameter in trainer.state.objective.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, (parts[0][name] + parts[1][name]) / 2, atol=1e-6), name
    total = sum(((parts[0][name] + parts[1][name]) / 2).square().sum() for name in parts[0])
    assert update.grad_norm == pytest.approx(float(total) ** 0.5, rel=1e-4)
    assert update.heard.embedding.shape == (4, 128)


def test_gradients_are_clipped(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, clip_norm=0.25)
    update = step(trainer, clips)
    assert update.grad_norm > 0.25
    norm = torch.stack([p.grad.norm() for p in trainer.state.objective.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.25, rel=1e-3)


def test_the_average_follows_the_weights(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, ema_decay=0.75)
    weight = trainer.state.objective.encoder.vit.embed.weight
    before = weight.detach().clone()
    step(trainer, clips)
    wanted = 0.75 * before + 0.25 * weight.detach()
    assert torch.allclose(trainer.state.exported_encoder()["vit.embed.weight"], wanted, atol=1e-7)
    assert not torch.equal(before, weight)


def test_the_online_probe_leaves_the_encoder_alone(songs, tmp_path):
    """Bit for bit the same encoder with the probe on and off."""
    weights = []
    for enabled in (True, False):
        trainer, clips = make(songs, tmp_path / str(enabled), probe=OnlineProbeConfig(enabled=enabled))
        run(trainer, clips)
        assert (trainer.state.probe is not None) == enabled
        weights.append({name: t.clone() for name, t in trainer.state.objective.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "probe_loss" in metrics(tmp_path / "True")[0]
    assert "probe_loss" not in metrics(tmp_path / "False")[0]


class Poisoned(Lejepa):
    """An objective whose loss is not finite in one step."""

    bad_step = 2
    value = float("nan")

    def forward(self, batch, chance):
        output = super().forward(batch, chance)
        return output._replace(loss=output.loss * self.value) if chance.step == self.bad_step else output


@pytest.mark.parametrize(("bad_step", "value"), [(2, float("nan")), (0, float("nan")), (3, float("inf"))])
def test_a_loss_that_is_no_number_stops_with_the_state_before_it(songs, tmp_path, bad_step, value):
    trainer, clips = make(songs, tmp_path, steps=6, checkpoint_every=100)
    trainer.state.objective.__class__ = type("Bad", (Poisoned,), {"bad_step": bad_step, "value": value})
    for _ in range(bad_step):
        step(trainer, clips)
    before = snapshot(trainer.state)
    with pytest.raises(NonFinite, match=f"step {bad_step + 1}: loss (nan|inf), .*is saved in") as error:
        run(trainer, clips)
    assert "\n" not in str(error.value)
    assert changed(before, trainer.state) == set()
    assert trainer.state.step == bad_step
    assert set(error.value.recordings) <= set(range(8))
    saved = [path.name for path in (tmp_path / "checkpoints").glob("step-*")]
    assert saved == ([f"step-{bad_step:08d}"] if bad_step else [])


def test_a_gradient_that_is_no_number_stops_too(songs, tmp_path):
    trainer, clips = make(songs, tmp_path)
    trainer.state.objective.encoder.vit.embed.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = snapshot(trainer.state)
    with pytest.raises(NonFinite, match="gradient norm nan"):
        step(trainer, clips)
    assert changed(before, trainer.state) == set()


def test_damage_that_is_in_the_state_already_is_told_with_the_reason(songs, tmp_path):
    trainer, clips = make(songs, tmp_path)
    step(trainer, clips)
    with torch.no_grad():
        trainer.state.objective.encoder.vit.embed.weight[0, 0] = float("inf")
    with pytest.raises(NonFinite, match=r"step 2: .*holds NaN or infinity"):
        step(trainer, clips)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def refusing(clips, first, last, n):
    for number in range(first, last):
        reasons = tuple(Failure(f"{number}-{i}.wav", "decode", 0.0, "truncated: x") for i in range(n))
        yield dataclasses.replace(clips.batch(number), refused=reasons)


def test_too_many_refused_recordings_end_the_run_with_reasons(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, steps=100)
    with pytest.raises(UserError, match=r"24 of 12 examples .*max_refused=0.05: 0-0.wav: truncated: x; ") as error:
        trainer.run(lambda *span: refusing(clips, *span, n=4), {}, stop=lambda: False, say=print)
    assert "data scan" in str(error.value)


def test_a_tolerable_share_of_refused_recordings_is_counted(songs, tmp_path):
    trainer, clips = make(songs, tmp_path)
    trainer.run(lambda *span: refusing(clips, *span, n=1), {}, stop=lambda: False, say=print)
    assert [row["n_refused"] for row in metrics(tmp_path)] == [2, 4, 6, 8]
    assert len(trainer.state.refused) == 8


def test_rows_are_logged_when_asked_and_when_monitors_look(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, steps=8, log_every=5, monitor=MonitorConfig(every=3, bank=16))
    said = run(trainer, clips)
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 3, 5, 6, 8]
    assert [row["step"] for row in rows if "effective_rank" in row] == [3, 6, 8]
    assert all({"loss", "invariance", "sigreg_excess", "grad_norm", "lr", "n_refused"} <= row.keys() for row in rows)
    assert any(line.startswith("step 8/8") and "steps/s" in line for line in said)


def test_collapse_raises_the_alarm_in_the_run(songs, tmp_path):
    trainer, clips = make(songs, tmp_path, monitor=MonitorConfig(every=2, bank=16, least_std=10.0))
    said = run(trainer, clips)
    assert sum("collapse" in line for line in said) == 2
    assert ["alarm" in row for row in metrics(tmp_path)] == [False, True, False, True]


def test_checkpoints_are_kept_as_asked(songs, tmp_path):
    retention = dataclasses.replace(tiny(songs, tmp_path).train.retention, keep_last=1, keep_every=3)
    trainer, clips = make(songs, tmp_path, steps=7, checkpoint_every=1, retention=retention)
    run(trainer, clips)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006", "step-00000007"]


def test_metrics_are_on_the_disk_before_the_checkpoint_that_follows(songs, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("birdjepa.train.sinks.Sinks.sync", lambda self: order.append("sync"))
    monkeypatch.setattr("birdjepa.train.loop.store.save", lambda *args, **kwargs: order.append("save"))
    run(*make(songs, tmp_path))
    assert order == ["sync", "save", "sync", "save"]


def test_auto_precision_asks_the_hardware():
    cpu = torch.device("cpu")
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("auto", cpu) is (torch.bfloat16 if has_bf16(cpu) else None)
    assert has_bf16(torch.device("meta")) is False


def test_devices_that_are_not_there_are_refused():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("nonsense", "cpu:x", *(() if torch.cuda.is_available() else ("cuda:0",))):
        with pytest.raises(UsageError, match=f"train.device='{name}' cannot be used"):
            pick_device(name)


def test_batches_move_and_keep_what_was_refused():
    batch = ClipBatch(
        torch.zeros(2, 8),
        torch.tensor([8, 5]),
        torch.zeros(2).long(),
        torch.zeros(2, 0).bool(),
        torch.ones(2).long(),
        (Failure("a", "decode", 0.0, "x"),),
    )
    moved = batch.move(torch.device("cpu"))
    assert (moved.clips.device.type, moved.refused) == ("cpu", batch.refused)
    assert moved.lengths.tolist() == [8, 5]
    one = batch.select([1])
    assert (one.clips.shape, one.lengths.tolist(), one.recording.tolist()) == ((1, 8), [5], [1])


def test_batches_of_different_numbers_of_clips_are_counted_as_they_are(songs, tmp_path):
    """And the count of clips that were asked for goes on where a run stopped."""
    trainer, clips = make(songs, tmp_path)
    numbers = [list(range(len(clips.batch(0).label))), [0]]
    update = trainer.update([clips.batch(number).select(rows) for number, rows in enumerate(numbers)])
    n_heard = sum(map(len, numbers))
    assert len(update.heard.label) == len(update.heard.embedding) == n_heard
    row = trainer.watch(update, 2.0)
    assert (row["clips_per_s"], row["step_s"]) == (n_heard / 2, 2.0)
    assert trainer.state.n_asked == n_heard == trainer.state.bank.n_seen
    trainer.save()
    again, _ = make(songs, tmp_path)
    checkpoint = store.latest(tmp_path / "checkpoints", warn=print)
    assert checkpoint
    again.state.restore(checkpoint)
    assert again.state.n_asked == n_heard
    old = {name: value for name, value in checkpoint.meta.items() if name != "n_asked"}
    with pytest.raises(UserError, match=r"saved by another version of birdjepa .it tells no n_asked"):
        again.state.restore(checkpoint._replace(meta=old))
