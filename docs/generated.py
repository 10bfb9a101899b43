"""Pages of the site that are made from the code, and the figures of the committed reports; mkdocs calls this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GALLERY = {
    "digits": "Handwritten digits, three seeds: what the demo trains, at ten times its budget.",
    "cifar": "CIFAR-10: design and distillation as two factors, three kinds of pre-training, three seeds.",
    "curvature": "Curvature of two small models that others trained, and what reparametrisation moves.",
}


def commands() -> str:
    """Every verb with its options, from the command line itself."""
    import typer

    from fdlab.cli.app import app

    def section(command: Any, name: str, level: int) -> list[str]:
        parts = [f"{'#' * level} `{name}`", "", _plain(command.help or ""), ""]
        if hasattr(command, "commands"):
            for part in command.commands.values():
                parts += section(part, f"{name} {part.name}", level + 1)
            return parts
        rows = [_row(option) for option in command.params if not getattr(option, "hidden", False)]
        return [*parts, "| option | what it does | default |", "|---|---|---|", *rows, ""]

    top: Any = typer.main.get_command(app)
    lines = ["# Commands", "", "Made from the command line itself; `fdlab VERB --help` says the same.", ""]
    for command in top.commands.values():
        lines += section(command, f"fdlab {command.name}", 2)
    return "\n".join(lines)


def _row(option: Any) -> str:
    names = ", ".join(option.opts + option.secondary_opts)
    return f"| `{names}` | {_cell(getattr(option, 'help', '') or '')} | {_default(option)} |"


def _default(option: Any) -> str:
    value = option.default
    shown = value not in (None, "", False) and not callable(value) and not option.required
    return f"`{value}`" if shown else ""


def _plain(text: str) -> str:
    return text.replace("[bold]", "`").replace("[/bold]", "`").replace("\b", "")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n", " ")


def measures() -> str:
    """Every measure with its formula, what it says and what it does not."""
    from fdlab.records.metrics import METRICS

    lines = ["# Measures", "", "What `fdlab explain NAME` says, of every measure.", ""]
    for metric in METRICS.values():
        unit = f" ({metric.unit})" if metric.unit else ""
        lines += [f"## `{metric.name}`", "", f"**{metric.label}**{unit}", "", f"    {metric.formula}", ""]
        lines += [
            f"- Tells you: {metric.says}",
            f"- Does not tell you: {metric.not_says}",
            f"- Source: {metric.source}",
            "",
        ]
    return "\n".join(lines)


def recipes() -> str:
    """Every packaged recipe, as its file has it."""
    lines = ["# Recipes", "", "Settings as data. `fdlab recipes show NAME` prints one with what its base adds.", ""]
    for path in sorted((ROOT / "fdlab/recipes").glob("*/*.toml")):
        lines += [
            f"## {path.parent.name}/{path.stem}",
            "",
            "```toml",
            path.read_text(encoding="utf-8").strip(),
            "```",
            "",
        ]
    return "\n".join(lines)


def gallery() -> str:
    """The figures of the committed reports."""
    lines = ["# Gallery", "", "The figures of the committed reports, made by `make reports` and `make study`.", ""]
    for name, said in GALLERY.items():
        lines += [f"## {name.capitalize()}", "", said, ""]
        for figure in sorted((ROOT / "reports" / name / "figures").glob("*.png")):
            lines += [f"![{figure.stem.replace('_', ' ')}](figures/{name}/{figure.name})", "", f"`{figure.stem}`", ""]
    return "\n".join(lines)


PAGES = {
    "reference/commands.md": commands,
    "reference/measures.md": measures,
    "reference/recipes.md": recipes,
    "gallery.md": gallery,
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and the figures (mkdocs calls this)."""
    from mkdocs.structure.files import File

    for place, make in PAGES.items():
        files.append(File.generated(config, place, content=make()))
    for name in GALLERY:
        for figure in sorted((ROOT / "reports" / name / "figures").glob("*.png")):
            files.append(File.generated(config, f"figures/{name}/{figure.name}", abs_src_path=str(figure)))
    return files
