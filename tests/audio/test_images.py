"""Images played as sound: the log-mel shows them, and the data set is the same for the same seed."""

import builtins
import csv
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from birdjepa.audio import images
from birdjepa.audio.images import ImagesConfig, read_digits, render_image, write_images
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.errors import LabelError, MissingExtraError, UsageError

FEW = ImagesConfig(n_images=20)
FRONT_END = LogMelConfig()


def frames_of(samples: np.ndarray) -> np.ndarray:
    """Default log-mel in dB, as an image: high bands on top."""
    with torch.no_grad():
        frames = FRONT_END.build().log_mel(torch.from_numpy(samples[None].astype(np.float32)))[0]
    return frames.numpy().T[::-1]


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """The image at the size of the log-mel, pixel by pixel."""
    rows = np.arange(FRONT_END.n_mels) * pixels.shape[0] // FRONT_END.n_mels
    columns = np.arange(images.N_FRAMES) * pixels.shape[1] // images.N_FRAMES
    return pixels[rows][:, columns]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_cifar(folder: Path, n_train: int = 30, n_test: int = 10, n_labels: int = 4) -> np.ndarray:
    """A folder as CIFAR-100's binary version has it, of coloured noise; returns the records."""
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (n_train + n_test, 3074), dtype=np.uint8)
    records[:, 1] = np.arange(len(records)) % n_labels
    folder.mkdir(exist_ok=True)
    records[:n_train].tofile(folder / "train.bin")
    records[n_train:].tofile(folder / "test.bin")
    return records


# Meaning


def test_the_log_mel_of_a_written_digit_shows_it_upright(tmp_path):
    write_images(tmp_path / "digits", FEW)
    digits = {image.name: image for image in read_digits()}
    for row in table(tmp_path / "digits"):
        samples, rate = soundfile.read(tmp_path / "digits" / row["path"])
        assert rate == FRONT_END.sampling_rate
        digit = digits[row["group"]]
        assert row["label"] == digit.label
        shown, wanted = frames_of(samples), enlarged(digit.pixels)
        assert shown.shape == wanted.shape
        upright = correlation(shown, wanted)
        assert upright > 0.95
        assert upright > max(correlation(shown, wanted[::-1]), correlation(shown, wanted[:, ::-1]))


def test_each_pixel_lands_in_its_bands_and_frames():
    for row, column in ((0, 0), (0, 7), (7, 0), (3, 5)):
        pixels = np.zeros((8, 8))
        pixels[row, column] = 1
        shown = frames_of(render_image(pixels, 0, "one"))
        means = shown.reshape(8, 16, 8, 32).mean((1, 3))
        assert np.unravel_index(means.argmax(), means.shape) == (row, column)
        assert means.max() - np.median(means) == pytest.approx(images.RANGE_DB, abs=3)


def test_equal_brightness_reads_alike_in_all_bands_and_images():
    grey = frames_of(render_image(np.full((8, 8), 0.5), 0, "grey"))
    rows = grey.reshape(8, 16, -1).mean((1, 2))
    assert np.ptp(rows) < 4
    white = frames_of(render_image(np.ones((8, 8)), 0, "white"))
    assert (white - grey).mean() == pytest.approx(images.RANGE_DB / 2, abs=1)


def test_a_photograph_of_32_rows_can_be_recognised():
    across, down = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    pixels = (0.5 + 0.5 * np.sin(9 * across) * np.cos(5 * down)).clip(0, 1)
    assert correlation(frames_of(render_image(pixels, 0, "wave")), enlarged(pixels)) > 0.95


@settings(max_examples=15, deadline=None)
@given(
    pixels=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 128), st.integers(1, 256)), elements=st.floats(0, 1), fill=st.just(1.0)
    )
)
def test_no_image_clips(pixels):
    samples = render_image(pixels, 0, "any")
    assert len(samples) == FRONT_END.n_samples(images.N_FRAMES)
    assert np.abs(samples).max() <= 0.9


def test_phases_carry_nothing_and_differ_between_images():
    pixels = read_digits()[0].pixels
    one, other = render_image(pixels, 0, "one"), render_image(pixels, 0, "other")
    assert np.array_equal(one, render_image(pixels, 0, "one"))
    assert abs(correlation(one, other)) < 0.3
    assert correlation(frames_of(one), frames_of(other)) > 0.95


@pytest.mark.parametrize(
    ("pixels", "complaint"),
    [(np.ones((129, 2)), "128 rows"), (np.ones((2, 257)), "256 columns"), (np.full((2, 2), 1.5), r"in \[0, 1\]")],
)
def test_what_cannot_be_rendered(pixels, complaint):
    with pytest.raises(ValueError, match=complaint):
        render_image(pixels, 0, "x")


# The data set


def test_same_seed_same_bytes_another_seed_other_images(tmp_path):
    for name, config in (("a", FEW), ("b", FEW), ("c", dataclasses.replace(FEW, seed=1))):
        write_images(tmp_path / name, config)
    contents = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*") if path.suffix != ".md"}
        for name in "abc"
    }
    assert contents["a"] == contents["b"]
    assert contents["a"]["metadata.csv"] != contents["c"]["metadata.csv"]


def test_folds_hold_each_label_alike(tmp_path):
    said: list[tuple[int, int]] = []
    config = ImagesConfig(n_images=50)
    manifest = write_images(tmp_path / "digits", config, progress=lambda done, total: said.append((done, total)))
    rows = table(manifest.parent)
    assert said == [(done, 50) for done in range(1, 51)]
    assert list(rows[0]) == list(images.METADATA_COLUMNS)
    assert Counter(row["fold"] for row in rows) == {f"fold{fold}": 10 for fold in range(1, 6)}
    assert {row["split"] for row in rows if row["fold"] == "fold5"} == {"test"}
    assert {row["split"] for row in rows if row["fold"] != "fold5"} == {"train"}
    for label in {row["label"] for row in rows}:
        counts = Counter(row["fold"] for row in rows if row["label"] == label)
        assert max(counts.values()) - min(counts[f"fold{fold}"] for fold in range(1, 6)) <= 1
    assert len({row["group"] for row in rows}) == len({row["path"] for row in rows}) == 50
    assert sorted(path.name for path in manifest.parent.iterdir()) == ["README.md", "images", "metadata.csv"]
    assert "--n-images 50 --seed 0" in (manifest.parent / "README.md").read_text()


def test_a_folder_in_use_and_too_many_images_are_refused(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").touch()
    with pytest.raises(UsageError, match="holds files already"):
        write_images(tmp_path / "used", FEW)
    with pytest.raises(UsageError, match="digits has 1797 images, n_images asks for 1798"):
        write_images(tmp_path / "new", ImagesConfig(n_images=1798))
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_limits_of_the_configuration():
    with pytest.raises(ValueError, match="n_images must be at least 5"):
        ImagesConfig(n_images=4)
    with pytest.raises(ValueError, match="source must be"):
        ImagesConfig(source="")


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest, **named):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"needs scikit-learn, .*birdjepa\[dev\]"):
        write_images(tmp_path / "digits", FEW)


# CIFAR-100's binary files


def test_cifar_keeps_its_split_names_and_pixels(tmp_path):
    records = write_cifar(tmp_path / "cifar")
    (tmp_path / "cifar" / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\nbear\n")
    config = ImagesConfig(source=str(tmp_path / "cifar"), n_images=40)
    rows = table(write_images(tmp_path / "out", config).parent)
    assert Counter(row["split"] for row in rows) == {"train": 30, "test": 10}
    names = ["apple", "aquarium_fish", "baby", "bear"]
    assert [row["label"] for row in rows] == [names[record[1]] for record in records]
    assert [row["group"] for row in rows[29:31]] == ["train-00029", "test-00000"]
    red, green, blue = records[31, 2:].reshape(3, 32, 32) / 255
    samples, _ = soundfile.read(tmp_path / "out" / rows[31]["path"])
    assert correlation(frames_of(samples), enlarged(0.299 * red + 0.587 * green + 0.114 * blue)) > 0.8


def test_cifar_without_names_has_numbers(tmp_path):
    write_cifar(tmp_path / "cifar")
    config = ImagesConfig(source=str(tmp_path / "cifar"), n_images=10)
    rows = table(write_images(tmp_path / "out", config).parent)
    assert {row["label"] for row in rows} <= {"00", "01", "02", "03"}


@pytest.mark.parametrize(
    ("name", "content", "error", "complaint"),
    [
        ("test.bin", None, UsageError, "test.bin is not there"),
        ("test.bin", b"", LabelError, "0 bytes are no whole records"),
        ("train.bin", bytes(3075), LabelError, "3075 bytes are no whole records of 3074"),
        ("train.bin", bytes([0, 100]) + bytes(3072), LabelError, "record 0 has label 100, of 100 names"),
        ("fine_label_names.txt", b"apple\n", LabelError, "of 1 names"),
        ("fine_label_names.txt", b"\xff\xfe", LabelError, "cannot be read as one name a line"),
    ],
)
def test_damaged_cifar_is_refused(name, content, error, complaint, tmp_path):
    folder = tmp_path / "cifar"
    write_cifar(folder, n_train=3, n_test=5)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    n_images = max(5, sum(path.stat().st_size // 3074 for path in folder.glob("*.bin")))
    with pytest.raises(error, match=complaint):
        write_images(tmp_path / "out", ImagesConfig(source=str(folder), n_images=n_images))
    assert not (tmp_path / "out").exists()
