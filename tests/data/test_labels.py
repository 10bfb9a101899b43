"""Labels from a table: which images they are, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdlab.data.sources import open_data, parse_spec, with_labels
from fdlab.errors import FdlabError

ROWS = ("a/1.png,cat", "a/2.png,dog", "b/3.png,cat", "b/4.png,dog")


def images(root: Path) -> Path:
    for name in ("a/1", "a/2", "b/3", "b/4", "b/5"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), int(name[-1]), dtype=np.uint8)).save(root / f"{name}.png")
    return root


def table(root: Path, *rows: str, name: str = "labels.csv") -> str:
    (root / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return with_labels(str(root), str(root / name))


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ("path,label", *ROWS),
        ("label;file", *(";".join(reversed(row.split(","))) for row in ROWS)),
        ("id\tImage\tClass", *("7\t" + row.replace(",", "\t") for row in ROWS)),
        ("\ufeffpath, label", *(row.replace(",", ", ") for row in ROWS)),
        (*ROWS, ROWS[0], ""),
    ],
    ids=["no header", "header", "semicolons", "more columns", "spaces", "repeated"],
)
def test_the_table_says_the_classes_and_folders_do_not(tmp_path: Path, rows: tuple[str, ...]) -> None:
    source = open_data(table(images(tmp_path), *rows))
    assert source.classes == ("cat", "dog") and source.labels().tolist() == [0, 1, 0, 1]
    assert [int(source.image(place).float().mean()) for place in range(4)] == [1, 2, 3, 4]
    assert any("1 images" in note and "does not name" in note for note in source.notes)
    assert any("again" in note for note in source.notes) == (len(rows) > 5 and rows[-1] == "")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((*ROWS, "b/6.png,cat", "nowhere.png,dog"), "2 files that are not there"),
        ((*ROWS[:3], "b/4.png,"), "1 rows without a label"),
        ((*ROWS, "a/1.png,dog"), "1 files more than one label"),
        (("path,label",), "There are no labels"),
        (("a/1.png", "a/2.png"), "There are no labels"),
        ((*ROWS, "../outside.png,cat"), "1 files that are not there"),
    ],
)
def test_what_is_wrong_is_counted_and_named(tmp_path: Path, rows: tuple[str, ...], says: str) -> None:
    root = images(tmp_path / "mine")
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(tmp_path / "outside.png")
    with pytest.raises(FdlabError, match=says) as caught:
        open_data(table(root, *rows))
    assert caught.value.code == 3 and len(str(caught.value).splitlines()) == 3
    if "not there" in says:
        assert rows[-1].split(",")[0] in str(caught.value)


def test_other_labels_are_other_data_and_parts_are_found(tmp_path: Path) -> None:
    root = images(tmp_path)
    first = open_data(table(root, *ROWS)).digest
    assert open_data(table(root, *ROWS, name="same.csv")).digest == first
    assert open_data(table(root, "a/1.png,dog", *ROWS[1:])).digest != first
    (root / "a").rename(root / "train")
    (root / "b").rename(root / "val")
    parts = open_data(table(root, *(row.replace("a/", "train/").replace("b/", "val/") for row in ROWS)))
    assert parts.own_parts and open_data(parts.spec + "#test").labels().tolist() == [0, 1]


def test_labels_belong_to_a_folder_and_the_text_survives() -> None:
    assert str(parse_spec("mine?labels=a b.csv?range=0:9#test[:4]")) == "mine?labels=a b.csv?range=0:9#test[:4]"
    with pytest.raises(FdlabError, match="belong to a folder") as caught:
        open_data("digits?labels=x.csv")
    assert caught.value.code == 2
    with pytest.raises(FdlabError, match="cannot be given"):
        with_labels("mine", "what?.csv")
