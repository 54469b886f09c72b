"""Every damage that a disk, a copy or a colleague can do to a checkpoint is found, named once, and passed over."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from birdjepa.checkpoint import manifest, store
from birdjepa.core import random

RETENTION = store.RetentionConfig(keep_last=3)
FILES = [manifest.STATE, manifest.META, manifest.MANIFEST]


def state(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "weight": torch.randn(40, 60, generator=generator),
        "count": torch.tensor(step),
        "empty": torch.empty(0, 3),
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 1 and 2, both intact."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        store.save(folder, step, state(step), {"step": step, "order": [3, 1, 2]}, retention=RETENTION)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "checkpoints"))


def newest(folder: Path) -> Path:
    return folder / "step-00000002"


def check_falls_back(folder: Path, named: str) -> None:
    """Step 1 is loaded bit for bit, after one warning that names the damaged file."""
    warnings: list[str] = []
    found = store.latest(folder, warn=warnings.append)
    assert found is not None
    assert found.step == 1
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state(1).items())
    assert len(warnings) == 1
    assert named in warnings[0]


def flip(file: Path, position: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1 << bit
    file.write_bytes(data)


def truncate(file: Path, size: int) -> None:
    os.truncate(file, size)


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def zero_page(file: Path) -> None:
    data = bytearray(file.read_bytes())
    start = min(4096, len(data) // 2)
    data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    file.write_bytes(data)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_by_link(file: Path) -> None:
    moved = file.rename(file.with_suffix(".moved"))
    file.symlink_to(moved)


def replace_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def swap_with_other_step(file: Path) -> None:
    shutil.copy(file.parents[1] / "step-00000001" / file.name, file)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "empty": lambda file: truncate(file, 0),
    "half": lambda file: truncate(file, file.stat().st_size // 2),
    "one byte short": lambda file: truncate(file, file.stat().st_size - 1),
    "one byte more": lengthen,
    "page of zeros": zero_page,
    "of another step": swap_with_other_step,
    "folder": replace_by_folder,
    "link": replace_by_link,
    "pipe": replace_by_pipe,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_passed_over(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(newest(folder) / name)
    check_falls_back(folder, f"step-00000002/{name}")


def count_undetected_flips(folder: Path, name: str, n: int) -> int:
    """How many of n flips of one bit, one at a time, `load` does not see or does not put down to the file."""
    file = newest(folder) / name
    generator = random.generator(0, "flip", name)
    n_undetected = 0
    for _ in range(n):
        position, bit = int(generator.integers(file.stat().st_size)), int(generator.integers(8))
        flip(file, position, bit)
        try:
            store.load(newest(folder))
            n_undetected += 1
        except store.CheckpointError as error:
            n_undetected += name not in str(error)
        flip(file, position, bit)
    store.load(newest(folder))
    return n_undetected


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_are_detected(folder: Path, name: str) -> None:
    assert count_undetected_flips(folder, name, n=100) == 0


@pytest.mark.parametrize("bit", range(8))
def test_flips_of_the_whole_manifest_are_detected(folder: Path, bit: int) -> None:
    file = newest(folder) / manifest.MANIFEST
    for position in range(bit, file.stat().st_size, 8):
        flip(file, position, bit)
        with pytest.raises(store.CheckpointError, match=manifest.MANIFEST):
            store.load(newest(folder))
        flip(file, position, bit)


def test_flipped_bit_is_passed_over(folder: Path) -> None:
    flip(newest(folder) / manifest.STATE, 5000, 3)
    check_falls_back(folder, f"step-00000002/{manifest.STATE}: is damaged: SHA-256")


# ---- moved, renamed, of another format, beside other files


def test_found_wherever_it_is_moved(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(newest(folder), tmp_path / "best"))
    assert store.load(moved).step == 2
    assert torch.equal(store.load(moved).tensors["weight"], state(2)["weight"])


def test_folder_of_another_step_is_refused(folder: Path) -> None:
    newest(folder).rename(folder / "step-00000007")
    with pytest.raises(store.CheckpointError, match=r"step-00000007/manifest.json: belongs to step 2"):
        store.load(folder / "step-00000007")
    check_falls_back(folder, "step-00000007")


def test_stray_files_are_ignored(folder: Path) -> None:
    (newest(folder) / "notes.txt").write_text("best so far")
    (newest(folder) / ".nfs0001").mkdir()
    assert store.load(newest(folder)).step == 2


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("step-00000002")])
def test_what_only_has_the_name_is_passed_over(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder / "step-00000003")
    warnings: list[str] = []
    found = store.latest(folder, warn=warnings.append)
    assert found is not None
    assert found.step == 2
    assert len(warnings) == 1
    assert "step-00000003" in warnings[0]


def test_format_of_the_future_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "FORMAT", 2)
    manifest.write_manifest(newest(folder), 2, state(2))
    monkeypatch.undo()
    check_falls_back(folder, "has format 2, this version reads format 1")


@pytest.mark.parametrize("content", [{}, {"format": 1}, {"format": 1, "step": 2, "files": [], "tensors": {}}])
def test_forged_manifest_is_refused(folder: Path, content: dict[str, object]) -> None:
    (newest(folder) / manifest.MANIFEST).write_bytes(manifest._seal(content))
    check_falls_back(folder, "not the manifest of a checkpoint")


def test_unreadable_file_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, os.strerror(5), str(path))

    fine = manifest.files.sha256
    monkeypatch.setattr(
        manifest.files, "sha256", lambda path: fail(path) if "step-00000002" in str(path) else fine(path)
    )
    check_falls_back(folder, "Input/output error")


# ---- planted faults: without one of its parts, the checks above turn red


class Anything:
    """Equal to all: stands for a comparison that is not made."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def test_without_file_hashes_flips_are_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_require_hash", lambda file, found, expected: None)
    digit = (newest(folder) / manifest.META).read_bytes().index(b"3")
    flip(newest(folder) / manifest.META, digit, 0)
    assert store.load(newest(folder)).meta["order"] == [2, 1, 2]


def test_without_any_hash_altered_weights_are_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(newest(folder) / manifest.STATE, 5000, 3)
    monkeypatch.setattr(manifest, "_require_hash", lambda file, found, expected: None)
    with pytest.raises(store.CheckpointError, match="tensor 'weight' differs"):
        store.load(newest(folder))  # the tensors' hashes alone would do
    monkeypatch.setattr(manifest, "_entry", lambda tensor: Anything())
    assert not torch.equal(store.load(newest(folder)).tensors["weight"], state(2)["weight"])


def test_without_the_seal_another_step_is_believed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = newest(folder).rename(folder / "best")
    file = moved / manifest.MANIFEST
    file.write_bytes(file.read_bytes().replace(b'"step": 2', b'"step": 3'))
    with pytest.raises(store.CheckpointError, match="seal is broken"):
        store.load(moved)
    monkeypatch.setattr(manifest, "_seal", lambda content: Anything())
    assert store.load(moved).step == 3
