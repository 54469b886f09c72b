"""Ranks from SLURM's variables, and caches on the node's own disk."""

import os
import stat
import subprocess
import sys

import pytest

from birdjepa import cli
from birdjepa.core.cluster import environment_of_slurm, first_host, node_folder, remove_node_folder, use_node_disk
from birdjepa.core.errors import UsageError

STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "login,node[01-03,07]",
    "SLURM_STEP_NODELIST": "node[01-03,07]",
}


def test_a_task_is_told_what_torchrun_would_tell_it():
    assert environment_of_slurm(STEP) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "node01",
        "MASTER_PORT": "24567",
    }


def test_all_tasks_of_a_job_find_one_address_and_two_jobs_do_not():
    tasks = [environment_of_slurm({**STEP, "SLURM_PROCID": str(rank)}) for rank in range(8)]
    assert len({(task["MASTER_ADDR"], task["MASTER_PORT"]) for task in tasks}) == 1
    assert environment_of_slurm({**STEP, "SLURM_JOB_ID": "1234568"})["MASTER_PORT"] == "24568"
    assert 1024 < int(environment_of_slurm({**STEP, "SLURM_JOB_ID": "4294967294"})["MASTER_PORT"]) < 32_768


def test_an_address_that_is_set_stays_and_one_task_is_no_rank():
    chosen = environment_of_slurm({**STEP, "MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "5000"})
    assert (chosen["MASTER_ADDR"], chosen["MASTER_PORT"]) == ("10.0.0.3", "5000")
    assert environment_of_slurm({**STEP, "SLURM_NTASKS": "1"}) == {}
    assert environment_of_slurm({}) == {}
    without_step = {name: value for name, value in STEP.items() if name != "SLURM_STEP_NODELIST"}
    assert environment_of_slurm(without_step)["MASTER_ADDR"] == "login"


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("node[01-03,07]", "node01"),
        ("node[3,1]", "node3"),
        ("a,b[1-2]", "a"),
        ("gpu-a[007-012].site.org,gpu-b1", "gpu-a007.site.org"),
        ("rack[1-2]node[05-06]", "rack1node05"),
        ("rack[1-2]node[05-06],node9", "rack1node05"),
    ],
)
def test_the_first_host_of_a_list(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize("hosts", ["", "node[", "node[]", ",a", "a b"])
def test_a_list_that_is_none_is_refused(hosts):
    with pytest.raises(UsageError, match="set MASTER_ADDR"):
        first_host(hosts)


def used(environ):
    told = []
    use_node_disk(environ, told.append)
    return told


def test_a_job_keeps_its_caches_on_the_nodes_disk(tmp_path):
    environ = {"SLURM_JOB_ID": "41", "SLURM_TMPDIR": str(tmp_path), "USER": "ada", "XDG_CACHE_HOME": "/c"}
    (told,) = used(environ)
    folder = tmp_path / "birdjepa-ada-41-0"
    assert environ["TMPDIR"] == str(folder)
    assert environ["HF_HOME"] == str(folder / "huggingface")
    assert environ["HF_HUB_CACHE"] == str(folder / "huggingface" / "hub")
    assert environ["HF_DATASETS_CACHE"] == str(folder / "huggingface" / "datasets")
    assert environ["HF_TOKEN_PATH"] == "/c/huggingface/token"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert told == f"on this node's own disk: TMPDIR, HF_HOME, HF_HUB_CACHE, HF_DATASETS_CACHE in {folder}"
    before = dict(environ)
    assert used(environ) == []  # a worker or a rank that inherits it
    assert environ == before
    remove_node_folder({**environ, "TMPDIR": ""})
    assert not folder.exists()


def test_two_jobs_two_nodes_and_two_users_share_nothing():
    env = {"SLURM_JOB_ID": "41", "USER": "ada", "TMPDIR": "/scratch"}
    others = [{"SLURM_JOB_ID": "42"}, {"SLURM_NODEID": "1"}, {"USER": "bob"}]
    assert len({node_folder({**env, **other}) for other in [{}, *others]}) == 4
    assert str(node_folder({"SLURM_JOB_ID": "41", "USER": "ada"})) == "/tmp/birdjepa-ada-41-0"


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"HF_HOME": "/h"}, {"TMPDIR"}),
        ({"HF_HUB_CACHE": "/h"}, {"TMPDIR", "HF_HOME", "HF_DATASETS_CACHE"}),
        ({"HUGGINGFACE_HUB_CACHE": "/h"}, {"TMPDIR", "HF_HOME", "HF_DATASETS_CACHE"}),
        ({"HF_DATASETS_CACHE": "/h"}, {"TMPDIR", "HF_HOME", "HF_HUB_CACHE"}),
        ({"HF_TOKEN_PATH": "/t"}, {"TMPDIR", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"}),
    ],
)
def test_what_the_user_has_set_is_left_alone(tmp_path, chosen, left):
    environ = {"SLURM_JOB_ID": "41", "SLURM_TMPDIR": str(tmp_path), **chosen}
    before = dict(environ)
    used(environ)
    assert {name: environ[name] for name in before} == before
    assert environ.keys() - before.keys() - {"HF_TOKEN_PATH"} == left


def test_all_set_or_no_cluster_means_nothing_is_made(tmp_path):
    own = {"SLURM_JOB_ID": "41", "TMPDIR": str(tmp_path), "HF_HOME": "/h"}
    for environ in (own, {"TMPDIR": str(tmp_path)}, {"SLURM_JOB_ID": "", "TMPDIR": str(tmp_path)}):
        before = dict(environ)
        assert used(environ) == []
        assert environ == before
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_rank_tells(tmp_path):
    assert used({"SLURM_JOB_ID": "41", "SLURM_TMPDIR": str(tmp_path), "RANK": "1"}) == []


def test_a_planted_folder_or_link_is_refused(tmp_path):
    environ = {"SLURM_JOB_ID": "41", "SLURM_TMPDIR": str(tmp_path), "USER": "ada"}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "birdjepa-ada-41-0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="belongs to someone else"):
        used(environ)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        used({**environ, "SLURM_TMPDIR": str(tmp_path / "file")})


def test_every_command_sees_to_it_first(tmp_path, monkeypatch, capsys):
    from birdjepa.cli import doctor

    for name in ("TMPDIR", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path))
    monkeypatch.setattr(doctor, "run", lambda _: len(os.environ["HF_HOME"]))
    assert cli.main(["doctor"]) > len(str(tmp_path))
    assert capsys.readouterr().err.startswith("birdjepa: on this node's own disk: TMPDIR, HF_HOME, HF_HUB_CACHE, ")
    capsys.readouterr()
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().err == ""


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "birdjepa", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("birdjepa ")
