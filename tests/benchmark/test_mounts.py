"""Which disks are this machine's own."""

from pathlib import Path

import pytest

from birdjepa.benchmark import mounts

VERDICTS = {
    **dict.fromkeys(("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "fuse.sshfs", "beegfs"), False),
    **dict.fromkeys(("ceph", "9p", "afs", "virtiofs", "fuse.juicefs", "unheard-of"), False),
    **dict.fromkeys(("overlay", "ext4", "xfs", "tmpfs", "btrfs", "zfs"), True),
}


@pytest.mark.parametrize(("kind", "is_local"), VERDICTS.items())
def test_verdicts(kind: str, is_local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:40 /export {tmp_path}/on\\040it rw,relatime shared:9 master:2 - {kind} server:/export rw,vers=4\n"
        "31 22 0:41 / /elsewhere rw - proc proc rw\n"
    )
    monkeypatch.setattr(mounts, "MOUNTS", table)
    there = tmp_path / "on it" / "new" / "results.sqlite"
    assert mounts.filesystem(there) == kind
    assert mounts.is_local(there) == is_local
    assert mounts.filesystem(tmp_path / "on it2") == "ext4"
    assert mounts.is_local(tmp_path / "on it2")


def test_links_are_followed_and_the_last_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    lines = [
        "1 0 8:1 / / rw - ext4 a rw",
        *(f"2 1 0:4 / {tmp_path}/net rw - {kind} b rw" for kind in ("autofs", "nfs")),
    ]
    table.write_text("\n".join(lines))
    monkeypatch.setattr(mounts, "MOUNTS", table)
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to("net")
    assert mounts.filesystem(tmp_path / "link" / "results.sqlite") == "nfs"


def test_this_machine() -> None:
    if mounts.MOUNTS.exists():
        assert mounts.filesystem(Path("/proc/self")) == "proc"


def test_a_system_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert mounts.filesystem(tmp_path) == ""
    assert mounts.is_local(tmp_path)
