"""Every format that Pillow reads is read; what is left out is said; deep images have a stated rule; bounds hold."""

from __future__ import annotations

import io
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data.decode import FORMATS, SUFFIXES, Unreadable, decode, file_bytes
from fdlab.data.sources import open_data, parse_spec, ranged
from fdlab.data.transforms import fitted
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

WRITTEN = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "gif", "tif"),
    *("tiff", "jp2", "j2k", "jpx", "avif", "tga", "icb", "ico", "icns", "ppm", "pgm"),
    *("pnm", "pbm", "pcx", "sgi", "rgb", "im", "dds", "qoi", "xbm", "msp", "mpo"),
)


def picture(seed: int = 0, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image, **settings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {".pgm": "L", ".pbm": "1", ".xbm": "1", ".msp": "1"}.get(path.suffix, image.mode)
    image.convert(mode).save(path, **settings) if mode != image.mode else image.save(path, **settings)


def noted(source) -> str:
    return "; ".join(source.notes)


@pytest.mark.parametrize("ending", [*WRITTEN, *(ending.upper() for ending in ("jfif", "avif", "gif", "jp2"))])
def test_every_format_that_pillow_writes_is_read_from_a_folder(ending: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        try:
            save(tmp_path / name / f"x.{ending}", picture())
        except (OSError, KeyError, ValueError) as error:
            pytest.skip(f"this Pillow does not write it: {error}")
    source = open_data(str(tmp_path))
    assert source.labels().tolist() == [0, 1]
    assert source.stack([0, 1], 32)[0].shape == (2, 3, 32, 32)
    assert not source.notes


def test_the_list_of_formats_is_what_this_pillow_reads_by_itself() -> None:
    Image.init()
    known = {e for e, name in Image.registered_extensions().items() if name in Image.OPEN}
    foreign = {"EPS", "WMF", "HDF5", "GRIB", "BUFR", "MPEG", "IPTC"}
    missing = {e for e in known - SUFFIXES if Image.registered_extensions()[e] not in foreign}
    assert not missing
    assert not foreign & set(FORMATS)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"<svg/>"])
def test_nothing_is_handed_to_another_program(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_a, **_k: pytest.fail("a program was started"))
    with pytest.raises(Unreadable):
        decode(content)


@pytest.mark.parametrize("ending", ["heic", "svg", "eps", "dcm", "exr", "mat", "xyz"])
def test_other_files_beside_images_are_counted_and_named(ending: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", picture())
        for number in range(3):
            (tmp_path / name / f"{number}.{ending}").write_bytes(b"data")
        (tmp_path / name / "notes.txt").write_text("a document is no image that is missed")
    source = open_data(str(tmp_path))
    assert len(source) == 2
    assert f"6 files with the ending .{ending} (6)" in noted(source)
    assert ".txt" not in noted(source)


@pytest.mark.parametrize("lost", ["heic", "dcm", "eps", "link", "fifo", "unlisted"])
@pytest.mark.parametrize("classes", [1, 2])
def test_a_class_that_would_vanish_is_refused(
    lost: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab"[:classes]:
        save(tmp_path / name / "1.png", picture())
    gone = tmp_path / "c"
    gone.mkdir()
    if lost == "link":
        (gone / "1.png").symlink_to(tmp_path / "nowhere.png")
    elif lost == "fifo":
        os.mkfifo(gone / "1.png")
    elif lost == "unlisted":
        refuse(monkeypatch, gone)
    else:
        (gone / f"1.{lost}").write_bytes(b"data")
    with pytest.raises(FdlabError, match="would be left out") as caught:
        open_data(str(tmp_path))
    assert caught.value.code == NOT_UNDERSTOOD
    assert "c: " in caught.value.why


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = os.scandir

    def scandir(path):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_deeper_folder_that_cannot_be_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", picture())
    (tmp_path / "a" / "closed").mkdir()
    refuse(monkeypatch, tmp_path / "a" / "closed")
    source = open_data(str(tmp_path))
    assert source.labels().tolist() == [0, 1]
    assert "1 folders that cannot be listed (a/closed)" in noted(source)


def test_links_to_nothing_pipes_and_devices_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", picture())
    (tmp_path / "a" / "2.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a" / "3.png").symlink_to("/dev/zero")
    (tmp_path / "b" / "4.png").symlink_to("4.png")
    os.mkfifo(tmp_path / "b" / "5.png")
    source = open_data(str(tmp_path))
    assert len(source) == 2
    assert "pipes or devices): 4" in noted(source)
    assert len(source.digest) == 64
    with pytest.raises(Unreadable, match="pipe or a device"):
        file_bytes("/dev/zero")
    with pytest.raises(Unreadable):
        file_bytes(tmp_path / "b" / "5.png")


def test_a_file_that_goes_after_the_folder_was_listed_is_unreadable(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", picture())
    source = open_data(str(tmp_path))
    (tmp_path / "1.png").unlink()
    assert len(source.digest) == 64
    assert len(source.stack(range(3), 32)[0]) == 2
    assert source.skipped == 1
    with pytest.warns(UserWarning, match="1 of 3 images of .* could not be read"):
        source.say_what_is_left_out()


def test_an_empty_class_folder_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.png", picture())
    (tmp_path / "c").mkdir()
    source = open_data(str(tmp_path))
    assert source.classes == ("a", "b")
    assert "folders without an image are no classes: c" in noted(source)


def test_a_flat_val_folder_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "train" / name / "1.png", picture())
        save(tmp_path / "val" / f"{name}.png", picture())
    assert "val/ holds no class folders: its 2 images have no labels" in open_data(str(tmp_path)).unlabelled
    assert "#train" in open_data(str(tmp_path)).unlabelled
    assert open_data(f"{tmp_path}#train").labels().tolist() == [0, 1]


def test_differing_classes_are_named(tmp_path: Path) -> None:
    for part, names in (("train", "abc"), ("val", "abz")):
        for name in names:
            save(tmp_path / part / name / "1.png", picture())
    with pytest.raises(FdlabError, match="Only val/ has z"):
        open_data(str(tmp_path))


def test_fewer_classes_in_the_test_images_are_counted_as_in_the_training_images(tmp_path: Path) -> None:
    from fdlab.study.inputs import check_held_out

    for name in "abc":
        save(tmp_path / "train" / name / "1.png", picture())
    for name in "ac":
        save(tmp_path / "few" / name / "1.png", picture(1, 33))
    for name in "az":
        save(tmp_path / "other" / name / "1.png", picture(1, 33))
    train = open_data(str(tmp_path / "train"))
    held = check_held_out(train, open_data(str(tmp_path / "few")))
    assert (held.classes, held.labels().tolist()) == (("a", "b", "c"), [0, 2])
    with pytest.raises(FdlabError, match=r"has z.* It has none of b, c"):
        check_held_out(train, open_data(str(tmp_path / "other")))


# ---- more than 8 bits

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)


def deep(kind: str) -> tuple[np.ndarray, str, dict]:
    """Values that fill the whole range of a bit depth."""
    whole = {"uint16": (0, 65535), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1), "float32": (0, 1)}[kind]
    return (whole[0] + RAMP * (whole[1] - whole[0])).astype(kind), "tif", {}


def written(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.dtype == np.int16:  # Pillow writes no signed 16 bits: a TIFF by hand
        h, w = values.shape
        tags = [(256, 4, w), (257, 4, h), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, h)]
        tags += [(279, 4, values.nbytes), (339, 3, 2)]
        body = values.astype("<i2").tobytes()
        head = b"II*\0" + (8 + len(body)).to_bytes(4, "little")
        rows = b"".join(t.to_bytes(2, "little") + k.to_bytes(2, "little") + (1).to_bytes(4, "little")
                        + v.to_bytes(4, "little") for t, k, v in tags)  # fmt: skip
        path.write_bytes(head + body + len(tags).to_bytes(2, "little") + rows + bytes(4))
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "float32"])
def test_the_full_range_of_the_bit_depth_is_black_to_white(kind: str, tmp_path: Path) -> None:
    values, ending, _ = deep(kind)
    pixels = decode(written(values, tmp_path / f"a.{ending}").read_bytes())[0].numpy().astype(float)
    assert np.abs(pixels - RAMP * 255).max() <= 1
    written(values, tmp_path / "d" / f"b.{ending}")
    assert "nearly one grey" not in noted(open_data(str(tmp_path / "d")))


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("uint16", 0, 4095), ("uint16", 1000, 1400), ("int32", -1000, 3000), ("int16", -1000, 2000), ("float32", 0, 0.01)],
)
def test_data_that_fill_little_of_their_range_are_said_and_spread(kind: str, low, high, tmp_path: Path) -> None:
    values = (low + RAMP * (high - low)).astype(kind)
    for number in range(3):
        written(values, tmp_path / f"{number}.tif")
    source = open_data(str(tmp_path))
    assert "3 of 3 images of more than 8 bits that were looked at use less than 10%" in noted(source)
    assert f"--value-range {low:g} {high:g} " in noted(source)
    spread = open_data(ranged(str(tmp_path), (low, high)))
    assert "nearly one grey" not in noted(spread)
    assert np.abs(spread.image(0)[0].numpy() - RAMP * 255).max() <= 1.5
    assert spread.digest != source.digest
    assert spread.spec == f"{tmp_path}?range={low:g}:{high:g}"


def test_a_value_range_leaves_eight_bits_alone(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture())
    plain, scaled = open_data(str(tmp_path)), open_data(f"{tmp_path}?range=0:4095")
    assert torch.equal(plain.image(0), scaled.image(0))


@pytest.mark.parametrize("text", ["5:5", "9:1", "a:b", "nan:1", "0:inf", ":", "1e999:2"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(FdlabError, match="is no range") as caught:
        parse_spec(f"d?range={text}")
    assert caught.value.code == USAGE


# ---- bounds

BOMBS = {
    "16 bit": lambda: Image.new("I;16", (12000, 12000)),
    "grey and alpha": lambda: Image.new("LA", (12000, 12000)),
    "colour": lambda: Image.new("RGB", (11000, 11000)),
    "palette": lambda: Image.new("P", (13000, 13000)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_of_many_pixels_is_unreadable_before_it_is_decoded(kind: str, monkeypatch) -> None:
    out = io.BytesIO()
    BOMBS[kind]().save(out, "PNG", compress_level=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Unreadable, match="million pixels"):
        decode(out.getvalue())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize("size", [(60000, 1), (1, 60000), (30000, 3), (5, 20000)])
def test_a_strip_is_cropped_before_it_is_enlarged(size: tuple[int, int]) -> None:
    strip = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    for direct in (False, True):
        assert fitted(strip, 224, direct=direct).shape == (3, 224, 224)


def test_a_strip_in_a_large_image_is_converted_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2500, 2000, 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(values, "RGBA").save(out, "PNG", compress_level=1)
    found = decode(out.getvalue())
    white = Image.alpha_composite(Image.new("RGBA", (2000, 2500), "white"), Image.fromarray(values, "RGBA"))
    assert torch.equal(found, torch.from_numpy(np.array(white.convert("RGB"))).permute(2, 0, 1))


WORDS = ["digits[" + "9" * 5000 + ":]", "digits[:" + "9" * 30 + "]", "~nobody-has-this-name/x", "a\0b", "n" * 5000,
         "~nobody-has-this-name/x.tar", "n" * 5000 + ".tar"]  # fmt: skip


@pytest.mark.parametrize("text", WORDS, ids=lambda text: text[:12].replace("\0", "0"))
def test_words_that_are_no_data_are_three_lines(text: str) -> None:
    with pytest.raises(FdlabError) as caught:
        open_data(text)
    assert caught.value.code in (USAGE, NOT_UNDERSTOOD)
