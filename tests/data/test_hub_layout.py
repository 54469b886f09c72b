"""Which files are which split: the card's word first, then the Hub's conventions."""

import pytest

from birdjepa.core.errors import UsageError
from birdjepa.data.hub_layout import choose

NAME = "hub:me/x"


def splits(paths, asked=(), configs=None):
    return choose(NAME, paths, configs, asked).splits


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        # as push_to_hub writes them; other files of the folder do not count
        (
            [*(f"data/train-0000{n}-of-00002.parquet" for n in (0, 1)), "data/test-00000-of-00001.parquet", "x.tar"],
            {
                "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
                "test": ["data/test-00000-of-00001.parquet"],
            },
        ),
        (["data/field.night-00000-of-00001.parquet"], {"field.night": ["data/field.night-00000-of-00001.parquet"]}),
        # a folder's name, the innermost one that tells; before a file's name
        (["x/train/a.tar", "x/val/test_a.tar"], {"train": ["x/train/a.tar"], "validation": ["x/val/test_a.tar"]}),
        (["my-dev/a.tar"], {"validation": ["my-dev/a.tar"]}),
        (["trained/a.tar", "b.tar"], {"train": ["b.tar", "trained/a.tar"]}),
        (["en/partial-train/0000.parquet"], {"train": ["en/partial-train/0000.parquet"]}),
        # a file's name, between edges
        (["train-0.tar", "eval.tar"], {"train": ["train-0.tar"], "test": ["eval.tar"]}),
        (["xeno_train_0.tar", "xeno_valid_0.tar"], {"train": ["xeno_train_0.tar"], "validation": ["xeno_valid_0.tar"]}),
        (["contest.tar", "latest.tar"], {"train": ["contest.tar", "latest.tar"]}),
        # nothing told
        (["b/1.arrow", "a/0.arrow", "README.md", ".hidden/x.arrow"], {"train": ["a/0.arrow", "b/1.arrow"]}),
    ],
)  # fmt: skip
def test_conventions(paths, expected):
    assert splits(paths) == expected


PATHS = ["en/a.parquet", "en/deep/b.parquet", "en/c.parquet", "de/train/a.parquet", "de/test/a.parquet", "m.json"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("en/*.parquet", {"train": ["en/a.parquet", "en/c.parquet"]}),
        ("en/**", {"train": ["en/a.parquet", "en/c.parquet", "en/deep/b.parquet"]}),
        (["en/c.parquet", "en/[a-b].parquet"], {"train": ["en/c.parquet", "en/a.parquet"]}),
        ([{"split": "night", "path": "./en/?.parquet"}], {"night": ["en/a.parquet", "en/c.parquet"]}),
        (
            [{"split": "train", "path": ["en/a.*", "en/**/b.*"]}, {"split": "test", "path": "de/test/*"}],
            {"train": ["en/a.parquet", "en/deep/b.parquet"], "test": ["de/test/a.parquet"]},
        ),
    ],
)
def test_a_card_decides(files, expected):
    assert splits(PATHS, configs=[{"config_name": "only", "data_files": files}]) == expected


CARD = [
    {"config_name": "en", "data_files": "en/*"},
    {"config_name": "de", "data_dir": "de"},
    {"config_name": "test", "data_files": [{"split": "x", "path": "de/test/*"}]},
]


def test_a_part_is_a_configuration_before_it_is_a_split():
    assert splits(PATHS, ["en"], CARD) == {"train": ["en/a.parquet", "en/c.parquet"]}
    assert splits(PATHS, ["de"], CARD) == {"train": ["de/train/a.parquet"], "test": ["de/test/a.parquet"]}
    assert splits(PATHS, ["test"], CARD) == {"x": ["de/test/a.parquet"]}
    assert splits(PATHS, ["de", "test"], CARD) == {"test": ["de/test/a.parquet"]}
    default = [CARD[0], {**CARD[1], "default": True}]
    assert splits(PATHS, ["test"], default) == {"test": ["de/test/a.parquet"]}
    assert splits(PATHS, [], [{"config_name": "default", "data_dir": "de"}, CARD[0]]).keys() == {"train", "test"}
    assert splits(["x_dev.tar"], ["val"]) == {"validation": ["x_dev.tar"]}


def test_folders_with_splits_of_their_own_are_configurations():
    """As the Hub's Parquet copies lie; taking all would hear each recording once for each of them."""
    paths = ["XCM/train/0000.parquet", "XCM/test/0000.parquet", "HSN/test/0000.parquet"]
    assert splits(paths, ["HSN"]) == {"test": ["HSN/test/0000.parquet"]}
    assert splits(paths, ["XCM", "train"]) == {"train": ["XCM/train/0000.parquet"]}
    assert splits(paths[:2]).keys() == {"train", "test"}
    with pytest.raises(UsageError, match=r"several configurations; name one of HSN, XCM, as in hub:me/x:HSN"):
        splits(paths)
    assert splits(["train/a/0.tar", "test/a/0.tar"]).keys() == {"train", "test"}


def test_shards_that_are_left_out_are_told():
    found = choose(NAME, ["train/a.tar", "train/b.tar", "train/meta.parquet", "odd.tar"], None, [])
    assert found.splits == {"train": ["train/a.tar", "train/b.tar"]}
    assert found.left_out == ("odd.tar", "train/meta.parquet")


@pytest.mark.parametrize(
    ("paths", "asked", "configs", "said"),
    [
        (PATHS, [], CARD, "several configurations; name one of en, de, test"),
        (PATHS, ["fr"], CARD, "no configuration 'fr'; name one of en, de, test"),
        (PATHS, ["fr", "train"], CARD, "no configuration 'fr'; it has en, de, test"),
        (PATHS, ["en", "dev"], CARD, "no split 'dev'; it has train"),
        (["train.tar"], ["dev"], None, "no split 'dev'; it has train"),
        (PATHS, [], [{"config_name": "a", "data_files": "fr/*"}], r"nothing for split 'train' \(fr/\*\): .* no such"),
        (PATHS, [], [{"config_name": "a", "data_files": "*.json"}], "it holds 1 .json"),
        (PATHS, [], [{"config_name": "a", "data_files": "https://x.org/a.parquet"}], "outside the repository"),
        (PATHS, [], [{"config_name": "a", "data_files": [{"split": "a"}]}], "make no sense here"),
        (PATHS, [], "en", "are no list with config_names"),
        (["a.mp3", "b.mp3", "metadata.csv"], [], None, "2 recordings as files of their own.*`hf download me/x"),
        (["x.py", "data/a.tar.gz"], [], None, r"script \(x\.py\), which is not run: .*hub:me/x#refs/convert/parquet"),
        (["data/a.tar.gz"], [], None, r"compressed archives \(\.gz\)"),
        (["README.md", "a.csv"], [], None, r"no shards \(\.tar, \.parquet, \.arrow\) in it; it holds 1 \.md, 1 \.csv"),
        ([], [], None, "it holds nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_line(paths, asked, configs, said):
    with pytest.raises(UsageError, match=said) as caught:
        choose(NAME, paths, configs, asked)
    assert str(caught.value).startswith(NAME)
    assert "\n" not in str(caught.value)
