"""What comes back, what is kept, what is refused, and in which order things reach the disk."""

import os
import shutil
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor

from birdjepa.checkpoint import manifest, store
from birdjepa.core.errors import UserError

KEEP_ALL = store.RetentionConfig(keep_last=1000)
WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3)}


def no_warning(text: str) -> None:
    raise AssertionError(text)


def save(folder: Path, step: int, *, value: float = 0.0, retention: store.RetentionConfig = KEEP_ALL) -> Path:
    return store.save(folder, step, {"weight": torch.full((4,), value)}, {"value": value}, retention=retention)


def steps(folder: Path) -> list[int]:
    """Listed steps, oldest first; asserts that nothing else lies in the folder."""
    names = sorted(path.name for path in folder.iterdir())
    assert all(name == f"step-{int(name[5:]):08d}" for name in names)
    return [int(name[5:]) for name in names]


def same_bits(a: Tensor, b: Tensor) -> bool:
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


# ---- what comes back

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7)])
def test_every_dtype_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    path = store.save(tmp_path, 1, {"x": tensor}, {}, retention=KEEP_ALL)
    assert same_bits(store.load(path).tensors["x"], tensor)


def test_rare_values_come_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        "floats": torch.tensor([-0.0, 5e-324, 1.7976931348623157e308], dtype=torch.float64),
        "integers": torch.tensor([-(2**63), 2**63 - 1, 2**53 + 1]),
    }
    found = store.load(store.save(tmp_path, 1, tensors, {}, retention=KEEP_ALL))
    assert list(found.tensors) == list(tensors)
    assert all(same_bits(found.tensors[name], tensors[name]) for name in tensors)


def test_no_tensors_at_all(tmp_path: Path) -> None:
    assert store.load(store.save(tmp_path, 0, {}, {"a": 1}, retention=KEEP_ALL)).meta == {"a": 1}


def test_shared_and_strided_tensors_come_back_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": whole,
        "again": whole,
        "row": whole[1],
        "transposed": whole.T,
        "stepped": whole[:, ::2],
        "expanded": torch.ones(1, 1).expand(3, 5),
        "parameter": torch.nn.Parameter(whole),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
    }
    found = store.load(store.save(tmp_path, 1, tensors, {}, retention=KEEP_ALL)).tensors
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    found["whole"].zero_()
    assert torch.equal(found["again"], whole)
    assert torch.equal(whole, torch.arange(12.0).reshape(3, 4))


def test_loaded_tensors_outlive_their_files(tmp_path: Path) -> None:
    path = store.save(tmp_path, 1, WEIGHTS, {}, retention=KEEP_ALL)
    found = store.load(path)
    os.truncate(path / manifest.STATE, 0)
    assert torch.equal(found.tensors["weight"], WEIGHTS["weight"])


json_values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=10,
)


@hypothesis.settings(deadline=None, derandomize=True, max_examples=30)
@hypothesis.given(meta=strategies.dictionaries(strategies.text(), json_values, max_size=4))
def test_meta_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, meta: dict[str, Any]) -> None:
    path = store.save(tmp_path_factory.mktemp("meta"), 1, {}, meta, retention=KEEP_ALL)
    assert repr(store.load(path).meta) == repr(meta)


@pytest.mark.parametrize(
    "meta", [{"loss": float("nan")}, {"best": float("inf")}, {"a": (1, 2)}, {"a": {1: 2}}, {"a": torch.ones(1)}]
)
def test_meta_that_would_change_is_refused(tmp_path: Path, meta: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="meta must"):
        store.save(tmp_path, 1, WEIGHTS, meta, retention=KEEP_ALL)
    assert list(tmp_path.iterdir()) == []


def test_files_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o644}


# ---- the newest


def test_none_only_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert store.latest(tmp_path / "absent", warn=no_warning) is None
    assert store.latest(tmp_path, warn=no_warning) is None
    (tmp_path / ".writing-step-00000001.1.00000000.elsewhere").mkdir()
    (tmp_path / "step-1").mkdir()
    assert store.latest(tmp_path, warn=no_warning) is None


def test_newest_is_the_highest_step_whatever_the_clock(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (20, 100_000_000, 99_999_999, 3)]
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    found = store.latest(tmp_path, warn=no_warning)
    assert found is not None
    assert found.step == 100_000_000
    assert found.path == paths[1]


def test_never_a_silent_restart(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / manifest.META).unlink()
    warnings: list[str] = []
    with pytest.raises(store.CheckpointError, match="none of the 2 checkpoints is intact"):
        store.latest(tmp_path, warn=warnings.append)
    assert len(warnings) == 2


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("unmounted")])
def test_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "checkpoints")
    with pytest.raises(store.CheckpointError, match="cannot be listed"):
        store.latest(tmp_path / "checkpoints", warn=no_warning)


def test_load_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(store.CheckpointError, match="No such file"):
        store.load(tmp_path / "step-00000001")
    assert issubclass(store.CheckpointError, UserError)


# ---- what is kept


def test_keeps_the_newest_and_the_milestones(tmp_path: Path) -> None:
    for step in range(11):
        save(tmp_path, step, retention=store.RetentionConfig(keep_last=2, keep_every=4))
    assert steps(tmp_path) == [0, 4, 8, 9, 10]


def test_damaged_ones_do_not_count(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / "step-00000003" / manifest.STATE).unlink()
    save(tmp_path, 5, retention=store.RetentionConfig(keep_last=3))
    assert steps(tmp_path) == [2, 3, 4, 5]


def test_the_checkpoint_just_saved_always_stays(tmp_path: Path) -> None:
    # A resume from step 10 after step 30 rotted in place: its size is right, so only a full read would tell.
    for step in (10, 30):
        save(tmp_path, step)
    state = tmp_path / "step-00000030" / manifest.STATE
    state.write_bytes(state.read_bytes()[:-1] + b"\xff")
    save(tmp_path, 20, retention=store.RetentionConfig(keep_last=1))
    warnings: list[str] = []
    found = store.latest(tmp_path, warn=warnings.append)
    assert found is not None
    assert found.step == 20
    assert len(warnings) == 1


def test_existing_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1, value=1.0)
    path = save(tmp_path, 1, value=2.0, retention=store.RetentionConfig(keep_last=1))
    assert steps(tmp_path) == [1]
    assert store.load(path).meta == {"value": 2.0}


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("elsewhere")])
def test_what_only_has_the_name_is_replaced(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "step-00000001")
    assert store.load(save(tmp_path, 1)).step == 1
    assert steps(tmp_path) == [1]


def test_damaged_replacement_gives_way_to_the_old_one(tmp_path: Path) -> None:
    save(tmp_path, 1, value=1.0)
    half = tmp_path / "step-00000001.replacement"
    shutil.copytree(tmp_path / "step-00000001", half)
    (half / manifest.META).unlink()
    save(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]
    assert store.load(tmp_path / "step-00000001").meta == {"value": 1.0}


def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    here = socket.gethostname()
    dead = 2**22 + 1  # above Linux's largest process number
    gone = [f".writing-step-00000001.{dead}.00000000.{here}", f".deleting-step-00000001.{os.getpid()}.00000000.{here}"]
    old = ".writing-step-00000001.1.00000000.far.away"
    stays = [f".writing-step-00000001.{os.getppid()}.00000000.{here}", ".writing-step-00000002.1.00000000.far.away"]
    for name in [*gone, old, *stays, ".hidden"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / manifest.META).touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / old, (two_days_ago, two_days_ago))
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stays, ".hidden", "step-00000003"])


@pytest.mark.parametrize("setting", [{"keep_last": 0}, {"keep_every": -1}])
def test_retention_limits(setting: Mapping[str, int]) -> None:
    with pytest.raises(ValueError, match="keep_"):
        store.RetentionConfig(**setting)


# ---- what is refused


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_state_is_refused_and_nothing_deleted(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    poisoned = {"fine": torch.ones(3), "moments.0": torch.tensor([0.0, value, 1.0]).to(dtype)}
    with pytest.raises(store.CheckpointError, match=r"step 3 refused: tensor 'moments.0'"):
        store.save(tmp_path, 3, poisoned, {}, retention=store.RetentionConfig(keep_last=1))
    assert steps(tmp_path) == [1, 2]


def test_sparse_tensors_and_negative_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' must be dense"):
        store.save(tmp_path, 1, {"x": torch.eye(3).to_sparse()}, {}, retention=KEEP_ALL)
    with pytest.raises(ValueError, match="step must not be negative"):
        store.save(tmp_path, -1, WEIGHTS, {}, retention=KEEP_ALL)


def test_a_serialiser_that_writes_wrong_bytes_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def wrong(tensors: dict[str, Tensor], path: Path) -> None:
        right({name: tensor * (1 + 1e-7) for name, tensor in tensors.items()}, path)

    right = store.save_file
    monkeypatch.setattr(store, "save_file", wrong)
    with pytest.raises(store.CheckpointError, match="tensor 'weight' differs"):
        save(tmp_path, 2, value=1.0)
    assert steps(tmp_path) == [1]


def test_storage_fault_names_path_reason_and_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 1)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(path: Path) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(store.files, "sync", full)
    with pytest.raises(
        store.CheckpointError, match=r"step 2 not written: .*No space left.*[0-9,]+ bytes free"
    ) as caught:
        save(tmp_path, 2, retention=store.RetentionConfig(keep_last=1))
    assert str(tmp_path) in str(caught.value)
    assert steps(tmp_path) == [1]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_an_interrupted_save_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.files, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert steps(tmp_path) == []


def test_old_checkpoint_that_cannot_be_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def fail(path: Path) -> None:
        raise OSError(5, os.strerror(5), str(path))

    monkeypatch.setattr(store, "_discard", fail)
    with pytest.raises(store.CheckpointError, match="step-00000002: saved, but an older checkpoint cannot be deleted"):
        save(tmp_path, 2, retention=store.RetentionConfig(keep_last=1))
    assert steps(tmp_path) == [1, 2]


# ---- order of what reaches the disk


def events_of_a_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Syncs, manifest and renames of one save, in order; the temporary folder is called T."""
    events: list[str] = []
    sync, rename, write_manifest = store.files.sync, Path.rename, manifest.write_manifest

    def short(path: Path) -> str:
        relative = path.relative_to(folder.parent).as_posix()
        return "/".join("T" if part.startswith(".writing-") else part for part in relative.split("/"))

    def note_sync(path: Path) -> None:
        events.append(f"sync {short(path)}")
        sync(path)

    def note_rename(source: Path, target: Path) -> Path:
        events.append(f"rename {short(source)} {short(target)}")
        return rename(source, target)

    def note_manifest(path: Path, step: int, tensors: dict[str, Tensor]) -> None:
        events.append("manifest")
        write_manifest(path, step, tensors)

    monkeypatch.setattr(store.files, "sync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(manifest, "write_manifest", note_manifest)
    save(folder, 1)
    return events


def check_order(events: list[str]) -> None:
    """Files, then manifest, then folder are on the disk before the name is; then the parent."""
    data = max(events.index(f"sync c/T/{name}") for name in (manifest.META, manifest.STATE))
    order = [
        data,
        events.index("manifest"),
        events.index(f"sync c/T/{manifest.MANIFEST}"),
        events.index("sync c/T"),
        events.index("rename c/T c/step-00000001"),
        events.index("sync c"),
    ]
    assert order == sorted(order)


def test_order_of_syncs_and_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_order(events_of_a_save(tmp_path / "c", monkeypatch))


@pytest.mark.parametrize(
    "lost", ["sync c/T/state.safetensors", "sync c/T/meta.json", "sync c/T/manifest.json", "sync c/T", "sync c"]
)
def test_a_lost_sync_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    events = events_of_a_save(tmp_path / "c", monkeypatch)
    with pytest.raises(ValueError, match=lost):
        check_order([event for event in events if event != lost])


def test_a_name_given_too_early_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = events_of_a_save(tmp_path / "c", monkeypatch)
    events.sort(key=lambda event: not event.startswith("rename"))
    with pytest.raises(AssertionError):
        check_order(events)
