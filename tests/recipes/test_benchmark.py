"""The benchmark job: the first command end to end, every task by every classifier on miniatures, each run once."""

import dataclasses
import json
import subprocess
import sys

import pytest
from tiny_tasks import pow_hub, prepared, tiny_encoder, write_manifest

from birdjepa.benchmark.results import Store
from birdjepa.benchmark.tasks import TASKS
from birdjepa.cli import main
from birdjepa.core.errors import UsageError
from birdjepa.recipes.benchmark import benchmark
from birdjepa.recipes.benchmark_config import BenchmarkConfig, only_encoder, read_named
from birdjepa.recipes.benchmark_finetune import FinetunedConfig

POOLED = ("linear", "mlp", "centroid", "knn")
TOKENS = ("prototypical", "attentive", "attentive-deep")
QUICK = """
[classifiers.linear]
grid = {n_epochs = 2, min_steps = 2}
[classifiers.mlp]
grid = {n_epochs = 2, min_steps = 2}
[classifiers.prototypical]
grid = {n_epochs = 2, min_steps = 2}
[classifiers.attentive]
grid = {n_epochs = 2, min_steps = 2}
[classifiers.attentive-deep]
grid = {n_epochs = 2, min_steps = 2}
"""


def silent(_):
    pass


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "encoder")


@pytest.fixture(scope="module")
def base(encoder, tmp_path_factory):
    """A configuration whose data, features and quick classifiers the tests share."""
    root = tmp_path_factory.mktemp("benchmark")
    (root / "quick.toml").write_text(QUICK)
    return BenchmarkConfig(
        model=(str(encoder),),
        data=root / "data",
        cache=root / "cache",
        config=root / "quick.toml",
        results=root / "results.sqlite",
        partial=True,
        n_resamples=20,
    )


def test_the_first_command_runs_offline_and_once(encoder, tmp_path, monkeypatch):
    """python -m birdjepa.benchmark --task pow --model birdjepa --classifier linear --n_train 100, in a folder with data
    as the Hub has them and one encoder.
    """
    pow_hub(tmp_path / "data" / "BirdSet")
    tiny_encoder(tmp_path / "runs" / "first" / "encoder")
    asked = "--task pow --model birdjepa --classifier linear --n_train 100 --partial --json --cache cache"
    command = [sys.executable, "-m", "birdjepa.benchmark", *asked.split(" ")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert (said["status"], said["task"], said["n_train"]) == ("ran", "pow", 100)
    assert 0 <= said["metrics"]["cmap"]["value"] <= 1
    assert said["counts"]["n_examples"] == 9
    assert said["counts"]["n_classes_scored"] == 3
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr
    again = json.loads(second.stdout)
    assert again == {**said, "status": "stored"}
    assert "computing" not in second.stderr
    with Store.open(tmp_path / "results.sqlite", make=False) as store:
        (result,) = store.all()
        scores = store.read_scores(result)
    assert scores["scores"].shape == scores["truth"].shape == (9, 48)
    assert any("is not complete: split test_5s has 9 rows instead of 4,560" in note for note in result.notes)
    assert result.experiment["model_identity"]["weights_sha256"]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_by_every_classifier(name, base):
    task = TASKS[name]
    prepared(base.data, task)
    classifiers = {"retrieve": ("centroid",), "frames": ("linear",), "classify": (*POOLED, *TOKENS)}[task.protocol]
    shots = ("2",) if task.protocol == "retrieve" else ("all",)
    config = dataclasses.replace(base, task=(name,), classifier=classifiers, n_train=shots)
    done = benchmark(config, silent)
    assert [(line.status, line.reason) for line in done.lines] == [("ran", "")] * len(config.classifier)
    for line in done.lines:
        value = line.result.metrics[task.metric].value
        assert 0 <= value <= 1
        assert line.result.suite == task.suite
        if line.at.classifier in ("knn", "centroid") and task.metric != "map_beans":
            assert value > 0.8  # tones are easy
    assert {line.status for line in benchmark(config, silent).lines} == {"stored"}


def test_shots_seeds_and_layers_are_experiments_of_their_own(base, tmp_path):
    prepared(base.data, TASKS["esc10"])
    config = dataclasses.replace(
        base,
        task=("esc10",),
        classifier=("centroid",),
        n_train=("1", "2", "all"),
        seed=(0, 1),
        layer=("all", "last"),
        results=tmp_path / "r.sqlite",
    )
    would = benchmark(config, silent, dry_run=True)
    assert {line.status for line in would.lines} == {"would run"}
    done = benchmark(config, silent)
    assert len(done.lines) == 3 * 2 * 3
    values = {line.at: line.result.metrics["accuracy"].value for line in done.lines}
    for at, value in values.items():
        if at.layer is None:  # the last layer by its number is the same experiment but for what it is called
            assert values[dataclasses.replace(at, layer=2)] == value
    counts = {line.at.n_train: line.result.counts["n_train"] for line in done.lines}
    assert counts[1] == 3 * 5  # three classes in five folds
    assert counts[1] < counts[2] < counts[None]


def test_what_cannot_be_run_says_why(base, tmp_path):
    prepared(base.data, TASKS["pow"])
    config = dataclasses.replace(
        base,
        task=("pow", "pow-retrieval", "voxceleb1"),
        model=("logmel", "nowhere-enc"),
        classifier=("finetune", "restricted", "linear"),
        results=tmp_path / "r.sqlite",
    )
    with pytest.raises(UsageError, match="'nowhere-enc' is not a model; there are birdjepa, random"):
        benchmark(config, silent)
    config = dataclasses.replace(config, model=("logmel",), data=base.data)
    found = {
        (line.at.task, line.at.classifier): (line.status, line.reason)
        for line in benchmark(config, silent, dry_run=True).lines
    }
    assert found["pow", "finetune"][0] == "n/a"
    assert found["pow", "restricted"] == ("n/a", "logmel has no classes of its own")
    assert found["pow", "linear"] == ("would run", "")
    assert found["pow-retrieval", "linear"][1].startswith("retrieval ranks by likeness")
    status, reason = found["voxceleb1", "linear"]
    if status != "would run":  # another test may have made its manifest
        assert status == "no data"
        assert "birdjepa data describe voxceleb1" in reason
    with pytest.raises(UsageError, match="'pwo' is not a task; there are per"):
        benchmark(dataclasses.replace(config, task=("pwo",)), silent)


def test_fine_tuning_is_a_classifier(base, tmp_path):
    prepared(base.data, TASKS["pow"])
    prepared(base.data, TASKS["beans-dogs"])
    toml = tmp_path / "b.toml"
    toml.write_text("[classifiers.finetune]\nsteps = 2\nbatch_size = 4\n")
    config = dataclasses.replace(
        base, task=("pow", "beans-dogs"), classifier=("finetune",), config=toml, results=tmp_path / "r.sqlite"
    )
    done = benchmark(config, silent)
    assert [(line.status, line.reason) for line in done.lines] == [("ran", "")] * 2
    assert all(0 <= line.result.metrics[line.result.metric].value <= 1 for line in done.lines)
    assert {line.status for line in benchmark(config, silent).lines} == {"stored"}


def test_own_tasks_models_and_classifiers_in_toml(encoder, tmp_path):
    prepared(tmp_path / "d", TASKS["beans-dogs"])
    toml = tmp_path / "bench.toml"
    toml.write_text(
        f"""
[tasks.my-dogs]
data = "d/beans-dogs.csv"
[models.mine]
kind = "EncoderSpec"
folder = "{encoder}"
pooling = "rows"
[classifiers.knn3]
kind = "KnnConfig"
k = 3
"""
    )
    named = read_named(toml)
    assert named.tasks["my-dogs"].suite == "own"
    config = BenchmarkConfig(
        task=("my-dogs",),
        model=("mine",),
        classifier=("knn3",),
        config=toml,
        cache=tmp_path / "c",
        results=tmp_path / "r.sqlite",
        n_resamples=10,
    )
    (line,) = benchmark(config, silent).lines
    assert (line.status, line.result.metric) == ("ran", "accuracy")
    for text, message in (
        ("[task.x]\ndata='a'", r"has no use for \[task\]"),
        ("[tasks.x]\ntitle='a'", "tasks.x has no data"),
        ("[classifiers.x]\nk=3", "classifiers.x needs kind"),
        ("[classifiers.knn]\nkk=3", "no setting 'kk'"),
        ("[models.x]\nfolder='a'", "models.x is new and needs a kind"),
    ):
        toml.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_named(toml)


def test_a_recording_that_cannot_be_read_costs_itself(base, encoder, tmp_path, capsys):
    prepared(tmp_path / "d", TASKS["beans-dogs"])
    bad = sorted((tmp_path / "d" / "audio").glob("*.wav"))[0]
    bad.write_bytes(b"broken in the field, and longer than a header is")
    arguments = ["--task", "beans-dogs", "--model", str(encoder), "--classifier", "knn", "--data", str(tmp_path / "d")]
    arguments += ["--cache", str(tmp_path / "c"), "--results", str(tmp_path / "r.sqlite"), "--partial"]
    assert main(["benchmark", *arguments]) == 3
    listed = (tmp_path / "r.sqlite.failures.csv").read_text()
    assert bad.name in listed
    assert "accuracy" in capsys.readouterr().out


def test_which_encoder_is_birdjepa(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"which encoder is birdjepa.*runs/ has none"):
        only_encoder()
    tiny_encoder(tmp_path / "runs/a/encoder")
    assert str(only_encoder()) == "runs/a/encoder"
    tiny_encoder(tmp_path / "runs/b/encoder")
    with pytest.raises(UsageError, match=r"runs/ has 2: runs/a/encoder, runs/b/encoder"):
        only_encoder()


def test_settings_outside_their_limits():
    for wrong in ({"n_train": ("0",)}, {"n_train": ("few",)}, {"layer": ("0",)}, {"seed": ()}, {"n_resamples": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong)) if "seed" not in wrong else "at least one value"):
            BenchmarkConfig(**wrong)
    with pytest.raises(ValueError, match="need steps"):
        FinetunedConfig(steps=0)


def test_names_are_listed(capsys):
    assert main(["benchmark"]) == 0
    printed = capsys.readouterr().out
    assert "bird-mae-base" in printed
    assert "attentive-deep" in printed
    assert "beans-dcase" in printed


def test_a_manifest_without_a_split_is_refused(base, tmp_path):
    write_manifest(tmp_path, "beans-dogs", [{"path": "a.wav", "label": "x"}])
    config = dataclasses.replace(base, task=("beans-dogs",), data=tmp_path, results=tmp_path / "r.sqlite")
    (line,) = benchmark(config, silent).lines
    assert line.status == "no data"
    assert "split train" in line.reason


def test_a_cluster_gets_a_task_for_each_task_and_model(monkeypatch, tmp_path):
    submitted = []
    monkeypatch.setattr(
        "birdjepa.recipes.slurm.submit_array", lambda commands, folder, slurm: submitted.extend(commands) or []
    )
    asked = "benchmark --task pow hsn --n-train 1 5 --model logmel random --classifier linear --slurm --slurm.hours 2"
    results = str(tmp_path / "r.sqlite")
    assert main([*asked.split(" "), "--results", results]) == 0
    tails = [" ".join(command[command.index("benchmark") :]) for command in submitted]
    kept = f"benchmark --n-train 1 5 --classifier linear --results {results}"
    assert tails == [
        f"{kept} --task {task} --model {model}" for task in ("pow", "hsn") for model in ("logmel", "random")
    ]
    assert main([*asked.split(" "), "--slurm.nodes", "2"]) == 2


def test_what_a_fine_tuned_encoder_cannot_hear_is_listed(encoder, tmp_path):
    prepared(tmp_path / "d", TASKS["beans-dogs"])
    tested = tmp_path / "d" / "audio" / "2-23.wav"
    tested.write_bytes(b"broken in the field, and longer than a header is")
    (tmp_path / "b.toml").write_text("[classifiers.finetune]\nsteps = 2\nbatch_size = 4\n")
    config = BenchmarkConfig(
        task=("beans-dogs",),
        model=(str(encoder),),
        classifier=("finetune",),
        config=tmp_path / "b.toml",
        data=tmp_path / "d",
        cache=tmp_path / "c",
        results=tmp_path / "r.sqlite",
        partial=True,
        n_resamples=10,
    )
    done = benchmark(config, silent)
    (line,) = done.lines
    assert (line.status, line.result.counts["n_examples"]) == ("ran", 8)
    assert [each.path.endswith(tested.name) for each in done.refused] == [True]


def test_a_model_is_opened_once_for_all_tasks(base, tmp_path, monkeypatch):
    from birdjepa.recipes import benchmark as job

    opened = []

    def counted(name, spec, device):
        opened.append(name)
        return open_backbone(name, spec, device)

    open_backbone = job.open_backbone
    monkeypatch.setattr(job, "open_backbone", counted)
    for name in ("beans-dogs", "beans-bats"):
        prepared(base.data, TASKS[name])
    config = dataclasses.replace(base, task=("beans-dogs", "beans-bats"), results=tmp_path / "r.sqlite")
    assert {line.status for line in benchmark(config, silent, dry_run=True).lines} == {"would run"}
    assert len(opened) == 1
