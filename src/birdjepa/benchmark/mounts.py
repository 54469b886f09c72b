"""Whether a file is on this machine's own disk, where the locks of a database hold, or on a network's."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "tmpfs", "ramfs"),
        *("overlay", "aufs", "rootfs", "fuse.fuse-overlayfs", "ntfs3", "fuseblk", "vfat", "exfat", "hfsplus"),
    }
)
"""Everything else counts as a network's: nfs, lustre, gpfs, cifs, 9p, fuse.sshfs .., and what nobody has heard of."""


def filesystem(path: Path) -> str:
    """Kind of the file system that a path is on, or would be on: "ext4", "nfs4"; empty where Linux does not tell."""
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    path, kind, depth = path.resolve(), "", -1
    for line in table.splitlines():
        where, _, described = line.partition(" - ")
        mounted = Path(_plain(where.split(" ")[4]))
        if path.is_relative_to(mounted) and len(mounted.parts) >= depth:  # later mounts lie over earlier ones
            kind, depth = described.split(" ")[0], len(mounted.parts)
    return kind


def is_local(path: Path) -> bool:
    """True also where the system has no table of mounts, which are laptops."""
    return filesystem(path) in LOCAL | {""}


def _plain(name: str) -> str:
    """Blanks and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
