"""BirdSet's tasks: published counts, and how the files of each are named.

Counts are those of the set's card and README, which agree but for UHH's classes (25 in train, 27 in the label list) and
XCL (528,434 rows by the card, 528,422 by a public scan). Shard numbers are those of its builder, version 0.0.4.
"""

import dataclasses

from birdjepa.data.catalog.classes import class_list

COMMIT = "806ed2cda4ddcbe6efa194ccafff930aa0e557ce"
"""Of the payload (shards and metadata), whose history is another than the builder's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One folder of the payload."""

    name: str
    region: str
    size_gb: float
    n_train: int
    train_shards: int
    n_train_classes: int | None
    """Of the training recordings; None where sources differ."""
    also_n_train: int | None = None
    """Another published number of training rows."""
    n_test: int = 0
    """Annotated boxes; 0 for the focal sets, which have neither boxes nor clips."""
    n_test_5s: int = 0
    test_shards: int = 0
    test_5s_shards: int = 0
    n_test_5s_classes: int | None = None
    """Classes with a positive in test_5s, where it is published; the official list is never shorter."""
    clip_is_recording: bool = False
    """A recording is one clip long, so that a clip's name need not tell where in it the clip lies."""
    source: str = ""
    """Of the soundscapes."""
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The official list by class number; empty for XCL."""
        return class_list(f"birdset-{self.name.lower()}")

    def metadata(self, split: str) -> str:
        """Name of the metadata file of a split."""
        return f"{self.name}_metadata{f'_{split}' if self.n_test else ''}.parquet"

    def archives(self, split: str) -> list[str]:
        """Names of the shards of a split."""
        return [f"{self._stem(split)}_{number:04d}.tar.gz" for number in range(1, self._n_shards(split) + 1)]

    def braces(self, split: str) -> str:
        """The same as a shell's brace expression."""
        last = self._n_shards(split)
        return f"{self._stem(split)}_{'0001' if last == 1 else f'{{0001..{last:04d}}}'}.tar.gz"

    def n_rows(self, split: str) -> tuple[int, ...]:
        """Published numbers of rows of a split; several where sources differ."""
        if split == "train":
            return (self.n_train,) if self.also_n_train is None else (self.n_train, self.also_n_train)
        return (self.n_test if split == "test" else self.n_test_5s,)

    def n_classes(self, split: str) -> int | None:
        """Published number of classes with a row in a split."""
        return {"train": self.n_train_classes, "test_5s": self.n_test_5s_classes}.get(split)

    def _stem(self, split: str) -> str:
        if not self.n_test:
            return f"{self.name}_shard"
        return f"{self.name}_{'test5s' if split == 'test_5s' else split}_shard"

    def _n_shards(self, split: str) -> int:
        return {"train": self.train_shards, "test": self.test_shards, "test_5s": self.test_5s_shards}[split]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Background:
    """The no-call recordings, which have no metadata."""

    folders: tuple[str, ...] = ("VOX", "dcase18")
    """Where their shards may be, best first."""
    n_rows: int = 20_331


VOX = Background()

_XC = "validate on birdset-pow-test5s, as BirdSet does; the task sets' training recordings are stored again in theirs"

TASKS = (
    Task(
        name="PER", region="Amazon basin, Peru", size_gb=10.5, source="Zenodo 7079124",
        n_train=16_802, n_test=14_798, n_test_5s=15_120, n_train_classes=132,
        train_shards=11, test_shards=3, test_5s_shards=1,
    ),
    Task(
        name="NES", region="coffee farms in Colombia and Costa Rica", size_gb=14.2, source="Zenodo 7525349",
        n_train=16_117, n_test=6_952, n_test_5s=24_480, n_train_classes=89, n_test_5s_classes=88,
        train_shards=13, test_shards=8, test_5s_shards=1,
        notes=("class 74, rucwar1, has no positive in test_5s: exclude it from means, never count it as 0",),
    ),
    Task(
        name="UHH", region="Hawaii", size_gb=4.92, source="Zenodo 7078499",
        n_train=3_626, n_test=59_583, n_test_5s=36_637, n_train_classes=25,
        train_shards=5, test_shards=7, test_5s_shards=1,
        notes=("two of its 27 classes have no training recording",),
    ),
    Task(
        name="HSN", region="High Sierras", size_gb=5.92, source="Zenodo 7525805",
        n_train=5_460, n_test=10_296, n_test_5s=12_000, n_train_classes=21,
        train_shards=7, test_shards=3, test_5s_shards=1,
    ),
    Task(
        name="NBP", region="NIPS4BPlus, Europe", size_gb=29.9, source="figshare 6798548",
        n_train=24_327, n_test=5_493, n_test_5s=563, n_train_classes=51, clip_is_recording=True,
        train_shards=32, test_shards=1, test_5s_shards=1,
        notes=("a test clip is a recording of its own, and so a group of its own",),
    ),
    Task(
        name="POW", region="Powdermill; BirdSet's validation task", size_gb=15.7, source="Zenodo 4656848",
        n_train=14_911, n_test=16_052, n_test_5s=4_560, n_train_classes=48,
        train_shards=9, test_shards=3, test_5s_shards=1,
        notes=("models are chosen on its test_5s; a mean over tasks leaves it out",),
    ),
    Task(
        name="SSW", region="Sapsucker Woods", size_gb=35.2, source="Zenodo 7018484",
        n_train=28_403, n_test=50_760, n_test_5s=205_200, n_train_classes=81,
        train_shards=29, test_shards=36, test_5s_shards=4,
        notes=("BEATs-NLM and NatureLM were trained on Sapsucker Woods",),
    ),
    Task(
        name="SNE", region="Sierra Nevada", size_gb=20.8, source="Zenodo 7050014",
        n_train=19_390, n_test=20_147, n_test_5s=23_756, n_train_classes=56,
        train_shards=21, test_shards=5, test_5s_shards=1,
    ),
    Task(
        name="XCM", region="Xeno-Canto, focal subset", size_gb=89.3,
        n_train=89_798, n_train_classes=409, train_shards=182,
        notes=(_XC, "its official list has 411 classes; UHH's two without training recordings are in it"),
    ),
    Task(
        name="XCL", region="Xeno-Canto, whole snapshot", size_gb=484.0,
        n_train=528_434, also_n_train=528_422, n_train_classes=None, train_shards=98,
        notes=(
            _XC,
            "sources say 9,734, 9,735 or 9,736 classes; the list here is what the metadata holds, sorted",
            "five recordings cannot be decoded (rows 495640, 495763, 497541, 498645 and 501254 of 528,422 in a copy "
            "saved by `datasets`): training passes over them and lists them",
            "users needed over 700 GB for it: get, prepare with --partial and delete one shard after the other",
        ),
    ),
)  # fmt: skip
