"""The imports between files, read from their text: no circle, no import upwards, nothing that runs on import order.

``lint-imports`` holds the floors for rooms. This test looks at every file, at imports inside functions too, and at what
the face of a package (its ``__init__``) hands on.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Graph = dict[str, set[str]]


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(root: Path, package: str) -> Graph:
    """Module -> the modules of the package that it imports at run time, at its top or inside a function."""
    trees = {module_of(path, root): ast.parse(path.read_text("utf-8")) for path in (root / package).rglob("*.py")}
    return {name: {target for target in targets(tree, set(trees)) if target != name} for name, tree in trees.items()}


def targets(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules that the imports below a node name; what is imported for type checkers alone is left out."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & known
            if whole - known:
                found.add(node.module)
        else:
            found |= targets(node, known)
    return found


def circle(graph: Graph) -> list[str]:
    """Some modules that import each other in a loop, or nothing."""
    done: set[str] = set()
    for start in graph:
        path: list[str] = []

        def walk(name: str, path: list[str] = path) -> list[str]:
            if name in path:
                return [*path[path.index(name) :], name]
            if name in done:
                return []
            path.append(name)
            for target in sorted(graph[name]):
                if found := walk(target):
                    return found
            done.add(path.pop())
            return []

        if found := walk(start):
            return found
    return []


def floors() -> dict[str, int]:
    """Room -> its floor, counted from the ground, as ``pyproject.toml`` has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return {
        room.strip(): len(layers) - place for place, rooms in enumerate(layers) for room in rooms.split("|") if room
    }


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def upwards(graph: Graph, floor: dict[str, int]) -> list[str]:
    """Imports from a room to one on the same or a higher floor; the package's own face stands above all."""
    top = max(floor.values()) + 1
    height = {name: floor.get(room_of(name), top if name in ("fdlab", "fdlab.__main__") else -1) for name in graph}
    return [
        f"{name} -> {target}"
        for name, found in graph.items()
        for target in found
        if room_of(name) != room_of(target) and height[target] >= height[name]
    ]


def test_no_file_imports_itself_through_others() -> None:
    assert not circle(imports_of(ROOT, "fdlab"))


def test_no_file_imports_upwards() -> None:
    assert not upwards(imports_of(ROOT, "fdlab"), floors())


def test_every_room_has_a_floor() -> None:
    rooms = {f"fdlab.{path.stem}" for path in (ROOT / "fdlab").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"fdlab.__init__", "fdlab.__main__", "fdlab.__pycache__", "fdlab.recipes"} == set(floors())


@pytest.mark.parametrize("inside", [True, False])
def test_a_circle_is_noticed_also_inside_a_function(tmp_path: Path, inside: bool) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").write_text("")
    (tmp_path / "house" / "first.py").write_text("from house import second\n")
    back = "from house.first import name\n"
    (tmp_path / "house" / "second.py").write_text(f"def late():\n    {back}" if inside else back)
    found = circle(imports_of(tmp_path, "house"))
    assert set(found) == {"house.first", "house.second"}


def test_an_import_upwards_is_noticed() -> None:
    graph = {"fdlab.records.table": {"fdlab.study.stage"}, "fdlab.study.stage": {"fdlab.records.table"}}
    assert upwards(graph, {"fdlab.records": 2, "fdlab.study": 7}) == ["fdlab.records.table -> fdlab.study.stage"]


def test_imports_for_type_checkers_alone_are_no_imports(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "first.py").write_text("if TYPE_CHECKING:\n    from house import second\n")
    (tmp_path / "house" / "second.py").write_text("from house import first\n")
    assert not circle(imports_of(tmp_path, "house"))
