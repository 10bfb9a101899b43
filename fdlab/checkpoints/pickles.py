"""A pickle machine that builds plain data and calls nothing.

A pickle is a program for a small stack machine; Python's own reader runs it and calls whatever it names.
This one interprets the same instructions (``pickletools`` decodes them), turns the few names that weight
files need into numbers, tables and tensors, and every other name into an inert ``Stub``. There is no way
from a file to a function. Work and memory are bounded by ``Budget``: what values cost, not how they are written.
"""

from __future__ import annotations

import argparse
import pickletools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.checkpoints.limits import (
    MAX_COST,
    MAX_INT_BITS,
    MAX_OPS,
    MAX_PICKLE,
    MAX_TENSORS,
    checked_name,
)
from fdlab.checkpoints.storages import DTYPES, STORAGES, PickleError, tensor_view

# What values take in memory, in bytes, with what tables and lists reserve for growing.
ITEM, ENTRY, STEP, STUB, TENSOR = 16, 130, 40, 800, 1_500

Storage = tuple[str, str, str, int]  # dtype or class name, key, device, elements
_TABLES = ("OrderedDict", "defaultdict", "Counter", "dict")


class Stub(dict):  # a dict, so that subclasses of dict (training configurations) keep their items
    """Stands for a named thing that was not made: its name, arguments, state and items."""

    def __init__(self, name: str, args: Any = (), made: bool = True) -> None:
        super().__init__()
        self.name, self.args, self.made, self.state = name, args, made, None

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


@dataclass
class Budget:
    """Steps, bytes and tensors that the pickles of one file may cost together."""

    steps: int = MAX_OPS
    cost: int = MAX_COST
    tensors: int = MAX_TENSORS

    def spend(self, cost: int) -> None:
        """Takes ``cost`` bytes. Raises PickleError where no more are left."""
        self.cost -= cost
        if self.cost < 0:
            raise PickleError(f"its pickle makes more than {MAX_COST >> 20} MiB of values")

    def step(self) -> None:
        """Takes one step and the place of its value."""
        self.steps -= 1
        self.cost -= STEP
        if self.steps < 0 or self.cost < 0:
            raise PickleError(f"its pickle is longer than {MAX_OPS:,} steps")

    def tensor(self) -> None:
        """Takes one tensor."""
        self.tensors -= 1
        self.spend(TENSOR)
        if self.tensors < 0:
            raise PickleError(f"it holds more than {MAX_TENSORS:,} tensors")


class Machine:
    """Interprets one pickle of ``stream`` (bytes or a file at the pickle's start).

    ``storage(entry)`` returns the flat tensor of a storage. After ``run``, ``seen`` holds every name in
    the pickle and ``stubs`` those that became stubs. ``limit``: bytes of a pickle that holds its arrays itself.
    ``budget`` is shared by the pickles of one file.
    """

    def __init__(
        self,
        stream: Any,
        storage: Callable[[tuple[Any, ...]], Tensor] | None = None,
        *,
        limit: int = MAX_PICKLE,
        budget: Budget | None = None,
    ) -> None:
        self.stream, self.storage, self.limit = stream, storage, max(limit, MAX_PICKLE)
        self.budget = budget or Budget(cost=max(limit, MAX_COST))
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.seen: dict[str, None] = {}
        self.stubs: dict[str, None] = {}

    def run(self) -> Any:
        """The pickled value.

        Raises:
            PickleError: damaged, or beyond the limits.
        """
        start = None
        try:
            for op, arg, place in pickletools.genops(self.stream):
                start = place if start is None else start
                self.budget.step()
                if (place or 0) - (start or 0) > self.limit:
                    raise PickleError(f"its pickle is longer than {self.limit >> 20} MiB")
                if op.name == "STOP":
                    return self.stack.pop()
                self._step(op.name, arg)
        except PickleError:
            raise
        except Exception as error:  # a damaged pickle can miss anything: stack, memo, type, encoding
            raise PickleError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:120]})") from error
        raise PickleError("its pickle is cut short")

    def _step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            if isinstance(arg, int) and arg.bit_length() > 1024:
                raise PickleError("it holds a whole number of more than 1,024 bits")
            if isinstance(arg, (str, bytes, bytearray)):
                self.budget.spend(sys.getsizeof(arg))
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
            self.budget.spend(ENTRY)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._keep(len(self.memo) if name == "MEMOIZE" else int(arg))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(arg)])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.budget.spend(2 * STEP)
            stack.append(tuple(self._pop(int(name[-1]))))
        elif name in ("PROTO", "FRAME"):
            pass
        else:
            _RARER[name](self, arg)

    def _keep(self, place: int) -> None:
        if place.bit_length() > MAX_INT_BITS:
            raise PickleError("a place in its memo is no count")
        self.budget.spend(ENTRY)
        self.memo[place] = self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise PickleError("its pickle takes more than it holds")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _to_mark(self) -> list[Any]:
        found = self._pop(len(self.stack) - self.marks.pop())
        self.budget.spend(ENTRY + ITEM * len(found))
        return found

    def _global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("it names something by what is no text")
        checked_name(module)
        full = f"{module}.{checked_name(name)}"
        self.budget.spend(STUB + len(full))
        self.seen[full] = None
        self.stack.append(_named(full) if _known(full) else Stub(full, made=False))
        if not _known(full):
            self.stubs[full] = None

    def _items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise PickleError("its pickle sets items of something else than a table")
        self.budget.spend(ENTRY * (len(pairs) // 2))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        self.budget.spend((ENTRY if isinstance(target, set) else ITEM) * len(items))
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(_key(item) for item in items)

    def _build(self, _arg: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, argparse.Namespace) and isinstance(state, dict):
            target.__dict__ = state
        elif isinstance(target, Stub):
            target.state = state
        elif isinstance(target, np.dtype) and isinstance(state, tuple) and state[1:2] == (">",):
            self.stack[-1] = target.newbyteorder(">")

    def _call(self, target: Any, args: Any) -> None:
        """What ``target(*args)`` would give, for the names that are known; else a stub."""
        name = target.name if isinstance(target, (Name, Stub)) else ""
        if isinstance(target, Name):
            self.stack.append(self._make(name, args if isinstance(args, tuple) else ()))
        else:
            self.budget.spend(STUB)
            self.stack.append(Stub(name or "a value that was called", args))

    def _make(self, full: str, args: tuple[Any, ...]) -> Any:
        short = full.rpartition(".")[2]
        self.budget.spend(STUB)
        if short == "_rebuild_parameter" or short == "_rebuild_parameter_with_state":
            return args[0]
        if short == "_rebuild_from_type_v2":  # (function, type, arguments, state): a tensor with attributes
            return self._make(args[0].name, args[2]) if isinstance(args[0], Name) else Stub(full, args)
        if short == "_rebuild_tensor_v3":  # types without a storage class of their own: bytes, with the type last
            self.budget.tensor()
            return tensor_view(args[0].view(torch.uint8).view(args[6]), *args[1:4])
        if short.startswith("_rebuild_tensor"):
            self.budget.tensor()
            return tensor_view(*args[:4])
        if short == "_reconstructor":  # protocol 0 and 1: (class, base, state)
            return self._make(args[0].name, ()) if isinstance(args[0], Name) else Stub(args[0].name)
        if short == "Namespace":
            return argparse.Namespace()
        if short in _TABLES:
            given = args[0] if args and isinstance(args[0], (list, dict)) else []
            self.budget.spend(ENTRY * len(given))
            pairs = given.items() if isinstance(given, dict) else given
            return {_key(key): value for key, value in pairs}
        if short in ("set", "frozenset"):
            given = args[0] if args and isinstance(args[0], list) else []
            self.budget.spend(ENTRY * len(given))
            return {_key(item) for item in given}
        if short == "encode":  # bytes in old protocols; no codec is looked up
            self.budget.spend(2 * sys.getsizeof(args[0]))
            return args[0].encode("latin1", "replace")
        if short == "dtype":
            known = isinstance(args[0], str) and re.fullmatch(r"[<>=|]?[biufc]\d{1,2}", args[0])
            return np.dtype(args[0]) if known else Stub(full, args)
        if short == "scalar":
            good = isinstance(args[0], np.dtype) and isinstance(args[1], bytes) and len(args[1]) == args[0].itemsize
            return np.frombuffer(args[1], args[0])[0].item() if good else Stub(full, args)
        if short in ("Size", "device"):
            return args[0] if args else ()
        return Stub(full, args)


@dataclass
class Name:
    """A known name on the stack."""

    name: str


def _known(full: str) -> bool:
    module, _, name = full.rpartition(".")
    return (
        (module == "torch" and (name in DTYPES or name in STORAGES or name in ("Size", "device")))
        or (module == "torch.storage" and name in STORAGES)
        or (module == "torch._utils" and name in _REBUILDERS)
        or full == "torch._tensor._rebuild_from_type_v2"
        or (module == "collections" and name in _TABLES)
        or (module in ("builtins", "__builtin__") and name in ("set", "frozenset", "dict"))
        or full in ("argparse.Namespace", "_codecs.encode", "numpy.dtype", "torch.nn.parameter.Parameter")
        or full in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
        or full in ("copy_reg._reconstructor", "copyreg._reconstructor")
    )


_REBUILDERS = frozenset(
    {
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v3",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    }
)


def _named(full: str) -> Any:
    module, _, name = full.rpartition(".")
    return DTYPES[name] if module == "torch" and name in DTYPES else Name(full)


def _key(key: Any) -> Any:
    """A key that hashes in constant time, to a place of its own.

    Nested tuples that share parts would take for ever, and so would large numbers that were chosen to collide.
    """
    if isinstance(key, (str, bytes)):
        return checked_name(key)
    if isinstance(key, int) and key.bit_length() > MAX_INT_BITS:
        raise PickleError(f"a key in it is a whole number of more than {MAX_INT_BITS} bits")
    if isinstance(key, (int, float, type(None), Stub)):
        return key
    return Stub(f"a {type(key).__name__} as a key", key)


def _persistent(machine: Machine, _arg: Any) -> None:
    entry = machine.stack.pop()
    if machine.storage is None or not isinstance(entry, tuple) or entry[:1] != ("storage",):
        raise PickleError("it refers to something that is no storage")
    machine.stack.append(machine.storage(entry[1:]))


def _reduce(machine: Machine, _arg: Any) -> None:
    machine._call(*machine._pop(2))


def _newobj_ex(machine: Machine, _arg: Any) -> None:
    target, args, _named_args = machine._pop(3)
    machine._call(target, args)


def _inst(machine: Machine, arg: Any) -> None:
    args = tuple(machine._to_mark())
    machine._global(*str(arg).split(" ", 1))
    machine._call(machine.stack.pop(), args)


def _obj(machine: Machine, _arg: Any) -> None:
    target, *args = machine._to_mark()
    machine._call(target, tuple(args))


def _dict(machine: Machine, _arg: Any) -> None:
    pairs = machine._to_mark()
    machine.stack.append({})
    machine._items(pairs)


def _drop(machine: Machine, _arg: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine._pop(1)


def _refuse(_machine: Machine, _arg: Any) -> None:
    raise PickleError("it uses pickle extensions or buffers outside the file")


_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_RARER: dict[str, Callable[[Machine, Any], Any]] = {
    "GLOBAL": lambda m, arg: m._global(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._global(*m._pop(2)),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _newobj_ex,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": Machine._build,
    "BINPERSID": _persistent,
    "PERSID": _refuse,
    "TUPLE": lambda m, _: m.stack.append(tuple(m._to_mark())),
    "LIST": lambda m, _: m.stack.append(m._to_mark()),
    "DICT": _dict,
    "FROZENSET": lambda m, _: m.stack.append({_key(item) for item in m._to_mark()}),
    "SETITEMS": lambda m, _: m._items(m._to_mark()),
    "SETITEM": lambda m, _: m._items(m._pop(2)),
    "APPENDS": lambda m, _: m._extend(m._to_mark()),
    "APPEND": lambda m, _: m._extend(m._pop(1)),
    "ADDITEMS": lambda m, _: m._extend(m._to_mark()),
    "POP": _drop,
    "POP_MARK": lambda m, _: m._to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"), _refuse),
}
