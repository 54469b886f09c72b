"""What a cluster job needs from its environment: which rank a process is, and a disk that is this node's alone.

In Hub caches on a shared file system, parallel jobs damage each other's files, for its locks hang or lock nothing. So
every job gets caches of its own on its node's disk.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

from birdjepa.core.errors import UsageError
from birdjepa.core.files import user_caches

PORTS = range(10_000, 30_000)
"""Where the first rank listens: above the services', below those that systems hand out themselves."""


def environment_of_slurm(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that torchrun would set, for one of several tasks of a SLURM step; empty where there is one task.

    All tasks find the same address without asking each other: the step's first host, and a port that follows from the
    job's number. A MASTER_ADDR or MASTER_PORT that is set already stays.

    Raises:
      UsageError: if the list of hosts cannot be read.
    """
    if int(env.get("SLURM_NTASKS", "1")) == 1:
        return {}
    hosts = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
    return {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "MASTER_ADDR": env.get("MASTER_ADDR") or first_host(hosts),
        "MASTER_PORT": env.get("MASTER_PORT") or str(PORTS[int(env["SLURM_JOB_ID"]) % len(PORTS)]),
    }


def first_host(hosts: str) -> str:
    """First name in a list as SLURM writes it: "rack2node[07-09,12],login" begins with rack2node07.

    Raises:
      UsageError: if it is not such a list.
    """
    names = re.fullmatch(r"((?:[\w.-]|\[\w[\w,-]*\])+)(,.+)?", hosts)
    if names is None:
        raise UsageError(f"SLURM's list of hosts {hosts!r} cannot be read; set MASTER_ADDR to the first one")
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", names[1])


def use_node_disk(environ: MutableMapping[str, str], say: Callable[[str], None]) -> None:
    """In a SLURM job, lets Hub data and temporary files go to this node's disk, and says so in one line.

    What the user has set is left alone: HF_HOME for all three caches, each of them, TMPDIR. The Hub's login stays where
    it was.

    Raises:
      UsageError: if the folder cannot be made, or belongs to someone else.
    """
    folder = node_folder(environ)
    if folder is None:
        return
    wanted = {"TMPDIR": folder} if not environ.get("TMPDIR") else {}
    if not environ.get("HF_HOME"):
        home = folder / "huggingface"
        wanted["HF_HOME"] = home
        if not environ.get("HF_HUB_CACHE") and not environ.get("HUGGINGFACE_HUB_CACHE"):
            wanted["HF_HUB_CACHE"] = home / "hub"
        if not environ.get("HF_DATASETS_CACHE"):
            wanted["HF_DATASETS_CACHE"] = home / "datasets"
    if not wanted:
        return
    _make_own(folder)
    if "HF_HOME" in wanted and not environ.get("HF_TOKEN_PATH"):
        environ["HF_TOKEN_PATH"] = str(user_caches(environ) / "huggingface" / "token")
    environ.update({name: str(path) for name, path in wanted.items()})
    if environ.get("RANK", "0") == "0":
        say(f"on this node's own disk: {', '.join(wanted)} in {folder}")


def node_folder(env: Mapping[str, str]) -> Path | None:
    """The job's folder on this node's disk (which need not exist), shared by the node's ranks; None outside SLURM."""
    if not env.get("SLURM_JOB_ID"):
        return None
    scratch = env.get("SLURM_TMPDIR") or env.get("TMPDIR") or "/tmp"
    user = env.get("USER") or os.getuid()
    return Path(scratch) / f"birdjepa-{user}-{env['SLURM_JOB_ID']}-{env.get('SLURM_NODEID', '0')}"


def remove_node_folder(env: Mapping[str, str]) -> None:
    """Gives the node its disk back when a job ends; SLURM does not always."""
    folder = node_folder(env)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _make_own(folder: Path) -> None:
    """Makes a folder that only this user can enter; its name can be guessed, so one that is there must be theirs."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error.strerror}): set TMPDIR to a disk of this node") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UsageError(f"{folder} belongs to someone else: set TMPDIR to a disk of this node")
