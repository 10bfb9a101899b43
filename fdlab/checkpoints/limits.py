"""What a weight file may ask of the machine before it is known to be one: every budget once, with its reason.

A file must not take more than three times its size and 300 MB, nor 10 seconds of a processor. The numbers lie
far above what published files need; what lies beyond them is refused by name.
"""

from __future__ import annotations

from typing import TypeVar

from fdlab.checkpoints.storages import PickleError

Name = TypeVar("Name", bound=str | bytes)

MAX_OPS = 1_000_000  # steps of a pickle; a training file of a ViT-g with its optimizer needs about 100,000
MAX_PICKLE = 32 * 2**20  # bytes of a pickle without arrays; that file's has 4 MB
MAX_COST = 128 * 2**20  # bytes that a pickle's values may take beside the text and numbers that lie in the file
MAX_NAME = 1_000  # characters of a key or a class's name; published keys have up to 120
MAX_INT_BITS = 64  # of whole numbers as keys: larger ones can be made to collide, so that each look-up tries them all
MAX_TENSORS = 50_000  # of one file; a ViT-g with its optimizer has some 3,000
MAX_TABLES = 20_000  # tables with tensors in a file; an optimizer has one for each parameter
MAX_PARTS = 200_000  # modules, parameters and buffers of all pickled modules of a file
MAX_DEPTH = 64  # of modules in modules
MAX_ENTRIES = 100_000  # of a zip directory ...
MAX_DIRECTORY = 8 * 2**20  # ... and its bytes
MAX_UNPACKED = 3  # a compressed archive may hold so many times its own size (weights hardly compress) ...
SMALL_UNPACKED = 32 * 2**20  # ... or so much, where it is small
MAX_HEADER = 8 * 2**20  # of safetensors: 50,000 tensors take 6 MB
MAX_JSON = 2 * 2**20  # of a JSON file beside weights or text inside one; 22,000 class names take 1 MB


def checked_name(name: Name) -> Name:
    """The name. Raises PickleError where it is longer than ``MAX_NAME``: it would be copied wherever it is used."""
    if len(name) > MAX_NAME:
        raise PickleError(f"a name in it has more than {MAX_NAME:,} characters ({name[:40]!r}...)")
    return name


def checked_unpacked(declared: int, size: int) -> None:
    """Raises PickleError where the entries of an archive of ``size`` bytes declare more than it may hold."""
    if declared > max(MAX_UNPACKED * size, SMALL_UNPACKED):
        raise PickleError(f"it declares {declared:,} bytes in a file of {size:,}, more than {MAX_UNPACKED} times")
