"""What the pages on waveforms and codecs say: their tables are the code's, their commands parse, named tests exist."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from birdjepa.cli import VERBS, codec_eval, codec_info, convert, detokenize, tokenize
from birdjepa.cli.arguments import parse
from birdjepa.cli.pretrain import configure
from birdjepa.codec.usage import rates
from birdjepa.models.discriminators import DiscriminatorsConfig
from birdjepa.models.vocoder import PRESETS as VOCODERS
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform import PRESETS, WaveformConfig
from birdjepa.nn.fsq import FsqConfig
from birdjepa.nn.packing import Packing
from birdjepa.optim.adversarial import AdversarialAdamWConfig
from birdjepa.optim.groups import AdamWConfig
from birdjepa.recipes.config import RunConfig
from birdjepa.recipes.named import RECIPES
from birdjepa.train.deepspeed_config import resolve

ROOT = Path(__file__).parents[1]
DAAM, CODEC, README = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("docs/daam.md", "docs/codec.md", "README.md")
)
ARGUMENTS = {
    "tokenize": tokenize.TokenizeArguments,
    "detokenize": detokenize.DetokenizeArguments,
    "codec eval": codec_eval.CodecEvalArguments,
    "codec info": codec_info.CodecInfoArguments,
    "convert deepspeed": convert.DeepspeedArguments,
}
RUNS = [RECIPES["daam"](), RECIPES["codec"]()]
OF_FORKS = ("--at-step", "--cooldown", "--fork", "--resume")


def rows(page: str, header: str) -> list[list[str]]:
    """Cells of the table whose header begins so."""
    _, _, rest = page.partition(f"\n{header}")
    assert rest, f"no table {header!r}"
    lines = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        lines.append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return lines


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def commands(page: str) -> list[str]:
    """Of all fenced blocks, one line each, without comments."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(block for language, block in blocks if language in ("", "bash")).replace("\\\n", " ").splitlines()
    bare = (re.sub(r"\s+#.*", "", line) for line in lines)
    found = (re.sub(r"^(torchrun .*?)-m birdjepa ", "birdjepa ", line) for line in bare)
    return [line for line in found if line.startswith("birdjepa ")]


def test_the_table_of_encoders_is_the_code() -> None:
    table = rows(DAAM, "| `--encoder.preset`")
    assert len(table) == len(PRESETS)
    for (name, rate, hop, hz, dims, parameters, reach), preset in zip(table, PRESETS, strict=True):
        config = WaveformConfig(preset=preset)  # pyright: ignore[reportArgumentType]
        with torch.device("meta"):
            network = config.build()
        assert name.startswith(f"`{preset}`")
        assert (int(rate), int(hop), float(hz)) == (config.shape.sampling_rate, config.hop, config.frame_rate)
        assert (int(dims), int(parameters.replace(",", ""))) == (config.shape.code_dim, size(network))
        field = config.receptive_field
        assert reach == ("the whole clip" if field < 0 else f"{field / config.shape.sampling_rate:.2f} s")


def test_the_table_of_vocoders_is_the_code() -> None:
    table = rows(CODEC, "| `--vocoder.preset`")
    assert len(table) == len(VOCODERS)
    for (name, hop, kernels, parameters, reach), preset in zip(table, VOCODERS, strict=True):
        config = VocoderConfig(preset=preset)  # pyright: ignore[reportArgumentType]
        with torch.device("meta"):
            vocoder = config.build(WaveformConfig(preset=preset).shape.code_dim)  # pyright: ignore
        assert name.startswith(f"`{preset}`")
        assert (int(hop), kernels) == (config.hop, ", ".join(map(str, config.shape.kernels)))
        assert (int(parameters.replace(",", "")), int(reach)) == (size(vocoder), vocoder.receptive_field)


def test_sizes_of_discriminators_are_the_codes() -> None:
    said = re.search(r"1 has ([\d.]+)\s+million parameters, 16 has ([\d.]+\d)", CODEC)
    assert said
    for divisor, number in zip((1, 16), said.groups(), strict=True):
        with torch.device("meta"):
            n = size(DiscriminatorsConfig(divisor=divisor).build()) / 1e6
        assert f"{n:.{len(number.partition('.')[2])}f}" == number


def value_of(run: RunConfig, flag: str) -> Any:
    """What a recipe has for a flag.

    Raises:
      AttributeError: if it has no such setting.
    """
    value: Any = run
    for part in flag.removeprefix("--").replace("-", "_").split("."):
        value = getattr(value, part)
    return value


def told(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(told, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def test_each_flag_of_ours_in_the_table_exists_with_its_default() -> None:
    table = rows(DAAM, "| its flag")
    theirs = {flag for row in table for flag in re.findall(r"`(--\w+)`", row[0])}
    assert len(theirs) == 42
    n_compared = 0
    for row in table:
        assert len(row) == 5, row
        for flag in re.findall(r"`(--[\w.-]+)", row[2]):
            found = []
            for run in RUNS:
                try:
                    found.append(told(value_of(run, flag)))
                except AttributeError:
                    continue
            assert found, flag
            if row[3] not in ("-", "recipe", "preset"):
                assert set(found) == {row[3]}, flag
                n_compared += 1
    assert n_compared >= 15


@pytest.mark.parametrize("header", ["| setting", "| term"])
def test_settings_of_codecs_exist_with_their_defaults(header: str) -> None:
    for row in rows(CODEC, header):
        flag = next(cell for cell in row if cell.startswith("`--"))
        assert told(value_of(RUNS[1], flag.strip("`"))) == row[row.index(flag) + 1]


@pytest.mark.parametrize("page", [DAAM, CODEC], ids=["daam", "codec"])
def test_every_flag_in_the_text_exists(page: str) -> None:
    table = page.partition("### Its flags and ours")[2]
    text = page.replace(table, "")
    known = {"--engine", "--encoder", *OF_FORKS}
    for flag in re.findall(r"`(--[a-z][\w.-]*)", text):
        found = [run for run in RUNS if flag in known or _has(run, flag)]
        assert found, flag


def _has(run: RunConfig, flag: str) -> bool:
    try:
        value_of(run, flag)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("page", [DAAM, CODEC, README], ids=["daam", "codec", "readme"])
def test_commands_parse(page: str) -> None:
    lines = commands(page)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line)[1:]
        assert words[0] in VERBS, line
        verb = next((verb for verb in ARGUMENTS if words[: verb.count(" ") + 1] == verb.split()), None)
        if verb:
            parse(ARGUMENTS[verb], words[verb.count(" ") + 1 :], prog=line, description="")
        elif words[0] == "pretrain" and not {"--resume", "--fork", "--slurm"} & set(words):
            alias = {"--engine": "--train.engine"}
            configure([alias.get(word, word) for word in words[1:]])


def test_the_public_systems_settings_are_its_defaults() -> None:
    first, second = (line for line in commands(DAAM) if "preset reference" in line)
    stage_1, stage_2 = (configure(shlex.split(line)[2:]) for line in (first, second))
    assert value_of(stage_1, "--encoder.hop") == 9600
    assert value_of(stage_2, "--vocoder.hop") == 9600
    for run in (stage_1, stage_2):
        settings = [value_of(run, f"--optim.{name}") for name in ("lr", "weight_decay", "beta1", "beta2")]
        assert settings == [1.5e-4, 1e-3, 0.8, 0.99]
        assert run.loader.clip_s == 15
    assert (type(stage_1.optim), type(stage_2.optim)) == (AdamWConfig, AdversarialAdamWConfig)
    assert value_of(stage_2, "--objective.disc_start_step") == 5000
    assert value_of(stage_1, "--objective.momentum") == (0.996, 0.996)


def test_the_line_on_codes_has_the_rates_of_the_reference() -> None:
    packing = Packing(radices=FsqConfig().levels_of(PRESETS["reference"].code_dim))
    config = WaveformConfig(preset="reference")
    rate = rates(packing, config.shape.sampling_rate, config.hop)
    first = f"G={packing.n_groups} fps={rate['frame_hz']:.4f} dur={8 / config.frame_rate:.2f}s"
    assert f"{first} tps={rate['tokens_per_s']:.3f} " in CODEC


def test_strides_of_ones_own_fit_a_vocoder_as_told() -> None:
    encoder = configure(shlex.split(next(line for line in commands(DAAM) if "32000" in line))[2:])
    settings = re.search(r"`(--vocoder.strides [^`]*)`", CODEC)
    assert settings
    codec = configure(["codec", "--data", "DATA", "--out", "runs/a", *settings[1].split()])
    assert value_of(codec, "--vocoder.hop") == value_of(encoder, "--encoder.hop") == 640


def test_the_ds_config_on_the_page_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("hjson", reason="comes with the extra deepspeed")
    blocks = re.findall(r"^```json\n(.*?)^```", CODEC, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "ds_config.json"
    path.write_text(blocks[0], encoding="utf-8")
    for run in RUNS:
        resolved = resolve(str(path), run.train, n_processes=2, precision="fp32")
        assert resolved.stage == 2
        assert resolved.notes == []
        assert resolved.told["train_batch_size"] == run.train.batch_size


def test_every_defect_has_tests_that_exist() -> None:
    table = rows(DAAM, "| | there | here")
    assert [row[0] for row in table] == [f"D{number}" for number in range(1, 40)]
    names: dict[str, set[str]] = {}
    for row in table:
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[3])
        assert tests, row[0]
        for file, test in tests:
            if file not in names:
                tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
                names[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert test in names[file], f"{row[0]}: {file}::{test}"


PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), target
