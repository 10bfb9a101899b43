"""What lies below a folder: image files, and what is left out by kind, so that nothing vanishes without a word."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fdlab.data.decode import SUFFIXES

# Endings of what often lies beside images and is none: nobody expects them to be read.
DOCUMENTS = """
.txt .md .rst .json .jsonl .csv .tsv .xml .yaml .yml .toml .ini .cfg .db .html .htm .py .ipynb .log .pdf .url .lnk .sh
.bat .cls
"""
# Endings of images (and films) that fdlab does not read: a class of such files must not vanish.
OTHER_IMAGES = """
.heic .heif .jxl .svg .svgz .eps .ps .wmf .emf .dcm .dicom .nii .gz .nrrd .mha .mhd .czi .lif .nd2 .svs .ndpi .vsi .raw
.cr2 .cr3 .nef .arw .dng .orf .raf .rw2 .exr .hdr .psb .xcf .ai .h5 .hdf .grib .npy .npz .mat .mpg .mpeg .mp4 .avi .mov
.mkv .webm
"""
_DOCUMENTS, _OTHER_IMAGES = frozenset(DOCUMENTS.split()), frozenset(OTHER_IMAGES.split())


@dataclass
class Listing:
    """Paths of image files relative to the root, sorted; and what was left out."""

    files: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)  # ending -> files that are no known image
    no_files: int = 0  # links to nothing, pipes, devices
    unlisted: list[str] = field(default_factory=list)  # folders that the system does not let us list
    folders: list[str] = field(default_factory=list)  # of the first level
    left_out: dict[str, Counter[str]] = field(default_factory=dict)  # folder of the first level -> what it lost

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, as sentences."""
        notes = []
        if self.formats:
            notes.append(f"left out: {endings(self.formats)}, which fdlab does not read")
        if self.no_files:
            notes.append(f"left out because they are no files (links to nothing, pipes or devices): {self.no_files}")
        if self.unlisted:
            notes.append(
                f"left out: {len(self.unlisted)} folders that cannot be listed ({', '.join(self.unlisted[:3])}"
                f"{', ...' if len(self.unlisted) > 3 else ''}): check their permissions"
            )
        return tuple(notes)


def endings(counts: Counter[str]) -> str:
    """Counts by ending in words.

    >>> endings(Counter({".heic": 3, "": 1}))
    '4 files with the endings .heic (3), none (1)'
    """
    total, shown = sum(counts.values()), counts.most_common(6)
    words = ", ".join(f"{ending or 'none'} ({count})" for ending, count in shown)
    return (
        f"{total} file{'s' if total > 1 else ''} with the ending{'s' if len(counts) > 1 else ''} {words}"
        f"{', ...' if len(counts) > 6 else ''}"
    )


def listed(root: Path) -> Listing:
    """Everything below ``root``; links to folders are followed, each folder once; hidden names are left alone.

    Raises:
        OSError: ``root`` itself cannot be listed.
    """
    found, seen = Listing(), set()  # class folders are often links; a link to a folder above must not go round
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        folder = os.path.join(root, relative)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:
            if not relative:
                raise
            found.unlisted.append(relative)
            _lost(found, relative, "cannot be listed")
            continue
        for entry in inside:
            if not entry.name.startswith("."):
                _sort(found, entry, os.path.join(relative, entry.name), waiting)
    found.files.sort()
    return found


def _sort(found: Listing, entry: os.DirEntry[str], path: str, waiting: list[str]) -> None:
    """One entry: a folder to be listed, an image, or what is left out. No stat where the system tells the kind."""
    ending = os.path.splitext(entry.name)[1].lower()
    try:
        if entry.is_dir():
            waiting.append(path)
            if os.sep not in path:
                found.folders.append(path)
            return
        regular = entry.is_file()
    except OSError:
        regular = False
    if ending in SUFFIXES and regular:
        found.files.append(path)
    elif not regular:
        if ending in SUFFIXES or entry.is_symlink():
            found.no_files += 1
            _lost(found, path, "no file")
    elif ending not in _DOCUMENTS:
        found.formats[ending] += 1
        if ending in _OTHER_IMAGES:
            _lost(found, path, ending)


def _lost(found: Listing, path: str, why: str) -> None:
    found.left_out.setdefault(path.partition(os.sep)[0], Counter())[why] += 1
