"""A seeded maker of damaged and hostile files: ``make(number, folder, bases, canary)`` -> a path."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile

import torch
from safetensors.torch import save_file

GLOBALS = ["os system", "posix system", "builtins exec", "builtins eval", "builtins open", "builtins getattr"]
GLOBALS += ["importlib import_module", "subprocess Popen", "torch.storage _load_from_bytes", "torch load", "nt system"]
GLOBALS += ["fdlab.cli.app main", "operator attrgetter", "functools partial", "types CodeType", "runpy run_path"]


def make_bases(folder):
    """Whole files of every container, each of which opens."""
    from fdlab.checkpoints.save import save_encoder
    from fdlab.encoders.student import Design, build

    design = Design(8, 4, 16, 1, 2, position="learned", class_token=True)
    module = build(design, seed=0)
    with torch.no_grad():
        module.pos_embed.add_(0.1)
    state = module.state_dict()
    bases = {name: folder / f"base-{name}" for name in ("zip", "legacy", "safetensors", "script", "own")}
    torch.save({"teacher": state, "epoch": 1}, bases["zip"])
    torch.save(state, bases["legacy"], _use_new_zipfile_serialization=False)
    save_file(state, bases["safetensors"])
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(bases["script"]))
    save_encoder(bases["own"], module, design=design, mean=(0.5,) * 3, std=(0.5,) * 3, family="x", seed=0)
    return {name: path.read_bytes() for name, path in bases.items()}


def make(number, folder, bases, canary):
    """File ``number``: the kind goes round, everything else is drawn from the number."""
    draw = random.Random(number)
    kinds = [cut, cut, flipped, flipped, flipped, retyped, hostile, hostile, hostile, nested, bomb, shapes, described]
    name, data = kinds[number % len(kinds)](draw, bases, canary)
    path = folder / f"{number}-{name}.pth"
    path.write_bytes(data)
    return path


def cut(draw, bases, _canary):
    name = draw.choice(sorted(bases))
    return f"cut-{name}", bases[name][: draw.randrange(len(bases[name]))]


def flipped(draw, bases, _canary):
    name = draw.choice(sorted(bases))
    data = bytearray(bases[name])
    near = draw.choice([len(data), 400, 4000])  # the start holds headers and pickles
    for _ in range(draw.choice([1, 3, 30, 300])):
        data[draw.randrange(min(near, len(data)))] ^= 1 << draw.randrange(8)
    return f"flipped-{name}", bytes(data)


def retyped(draw, bases, _canary):
    start = draw.choice(
        [b"\x89PNG\r\n", b"GIF89a", b"{}", b"[1]", b"\x80", b"PK\x03\x04", b"\x80\x02}", b"PK\x05\x06", b""]
    )
    return "retyped", start + draw.randbytes(draw.randrange(3000))


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(draw, canary):
    """A pickle fragment that leaves one value, made by one of the ways of calling a named function."""
    module, name = draw.choice(GLOBALS).split()
    argument = f"touch {canary}" if "system" in name else f"open({str(canary)!r}, 'w')"
    found = draw.choice([f"c{module}\n{name}\n".encode(), text(module) + text(name) + b"\x93"])
    how = draw.randrange(5)
    if how == 0:
        return found + b"(" + text(argument) + b"tR"
    if how == 1:
        return found + b"(" + text(argument) + b"t\x81"
    if how == 2:
        return b"(" + text(argument) + f"i{module}\n{name}\n".encode()
    if how == 3:
        return b"(" + found + text(argument) + b"o"
    return found + b"(" + text(argument) + b"tR" + b"}" + text("__setstate__") + found + b"sb"


def container(draw, pickled, extra=()):
    """The pickle as a torch zip, as a legacy file or bare."""
    how = draw.randrange(3)
    if how == 0:
        return pickled
    if how == 1:
        head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
        return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)
    return zipped({"a/data.pkl": pickled, "a/version": b"3\n", **dict(extra)})


def zipped(files, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def hostile(draw, _bases, canary):
    value = call(draw, canary)
    return "hostile", container(
        draw, draw.choice([value, b"}" + text("model") + value + b"s"]).join((b"\x80\x02", b"."))
    )


def nested(draw, bases, _canary):
    inner = bases[draw.choice(sorted(bases))]
    for _ in range(draw.randrange(1, 4)):
        how = draw.randrange(3)
        if how == 0:
            inner = zipped({draw.choice(["x.pth", "a/data.pkl", "data.pkl"]): inner})
        elif how == 1:
            inner = gzip.compress(inner)
        else:
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as archive:
                entry = tarfile.TarInfo("x.pth")
                entry.size = len(inner)
                archive.addfile(entry, io.BytesIO(inner))
            inner = out.getvalue()
    return "nested", inner


def bomb(draw, _bases, _canary):
    how = draw.randrange(9)
    if how == 0:  # compresses a thousandfold
        data = zipped({"a/data.pkl": pickle.dumps({}, 2), "a/data/0": bytes(30_000_000)}, zipfile.ZIP_DEFLATED)
    elif how == 1:
        data = zipped({"a/data.pkl": b"\x80\x02" + b"N0" * 5_000_000 + b"N."}, zipfile.ZIP_DEFLATED)
    elif how == 2:  # nested tuples that share parts, as a key: hashing would take for ever
        data = container(draw, b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01u.")
    elif how == 3:  # lists that share parts
        data = container(draw, b"\x80\x02}" + text("a") + b"]q\x00" + b"(h\x00h\x00lq\x00" * 200 + b"s.")
    elif how == 4:  # a place in the memo that would need 16 GiB
        data = container(draw, b"\x80\x02}r\xff\xff\xff\x7f.")
    elif how == 5:  # lengths that the file does not hold
        data = container(
            draw, b"\x80\x04" + draw.choice([b"\x8e", b"\x8d", b"\x96"]) + struct.pack("<Q", 2**40) + b"x."
        )
    elif how == 6:  # depth
        data = container(draw, b"\x80\x02" + draw.choice([b"]", b"(", b"}"]) * 200_000 + b"a" * 199_999 + b".")
    elif how == 7:  # copies of one long text
        data = container(
            draw, b"\x80\x02" + text("x" * 500_000) + b"q\x000" + b"c_codecs\nencode\n(h\x00tR0" * 5000 + b"}."
        )
    else:  # many steps
        data = container(draw, b"\x80\x02" + b"N0" * 1_500_000 + b"}.")
    return f"bomb-{how}", data


def shapes(draw, _bases, _canary):
    """Tensors whose shape or place does not fit their storage."""
    big = draw.choice([2**20, 2**40, 2**62, 2**63 - 1, -1, 2**100])
    number = pickle.dumps(big, 2)[2:-1]
    one = b"K\x01"
    offset, size, stride = draw.choice(
        [(number, one, one), (b"K\x00", number, one), (b"K\x00", number, b"K\x00"), (b"K\x00", b"K\x02", number)]
    )
    count = draw.choice([one, number])
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + b"(" + size + b"t(" + stride + b"t\x89}tR"
    return "shape", container(draw, b"\x80\x02}" + text("w") + tensor + b"s.", {"a/data/0": bytes(4)}.items())


def described(draw, bases, canary):
    """safetensors with a hostile header, or fdlab's own with a hostile description."""
    length = struct.unpack("<Q", bases["own"][:8])[0]
    header = json.loads(bases["own"][8 : 8 + length])
    entry = json.loads(header["__metadata__"]["fdlab"])
    how = draw.randrange(8)
    if how == 0:
        entry |= {
            "design": None,
            "timm": {"path": "os.system", "kwargs": {"command": f"touch {canary}"}, "norm_eps": 1e-6},
        }
    elif how == 1:
        kwargs = {"model_name": "hf-hub:someone/something", "pretrained": True}
        entry |= {"design": None, "timm": {"path": "timm.create_model", "kwargs": kwargs, "norm_eps": 1e-6}}
    elif how == 2:
        name = draw.choice(["depth", "width", "heads", "image_size", "patch_size", "in_chans"])
        entry["design"][name] = draw.choice([0, -1, 10**9, "x", None, [1, 2, 3]])
    elif how == 3:
        entry = draw.choice([{}, [], {"format": 1}, {"format": "x" * 100_000}, {**entry, "timm": None}])
    elif how == 4:
        entry["extra"] = {"card": "[" * 100_000}
    elif how == 5:
        entry["design"] = None
        entry["timm"]["kwargs"][draw.choice(["embed_dim", "depth", "img_size"])] = draw.choice([10**9, -1, "x"])
    elif how == 6:
        name = draw.choice([key for key in header if key != "__metadata__"])
        header[name][draw.choice(["shape", "data_offsets"])] = draw.choice([[10**18], [-1, 5], [0, 10**15], [2**63, 2]])
    header["__metadata__"]["fdlab"] = json.dumps(entry)
    if how == 7:
        return "length", struct.pack("<Q", draw.choice([0, 10**7, 99_999_999, 2**40])) + bases["own"][8:]
    data = json.dumps(header).encode()
    return "described", struct.pack("<Q", len(data)) + data + bases["own"][8 + length :]
