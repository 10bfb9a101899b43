"""What a LaTeX paper takes from a report: every headline number as a macro, booktabs tables, captions.

``numbers.tex`` holds ``\\fdMODELMETRIC`` (value), ``...Low``, ``...High`` and ``...Ci`` (value with its interval) for
every headline number; differences ``\\fdMODELMinusREFERENCEMETRIC``. Letters only: digits are spelt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fdlab.records.atomic import write_text
from fdlab.records.metrics import METRICS
from fdlab.records.table import differences
from fdlab.report.figures import available, figure_module
from fdlab.report.pairs import pairwise
from fdlab.report.provenance import table_digest
from fdlab.report.summary import Estimate, Facts, decimals, estimate, is_share, late, models, summary

_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_ESCAPES = {c: f"\\{c}" for c in "#$%&_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "…": r"\ldots{}",
    "[": "{[}",  # behind a row's end it would be read as that command's option
}


AS_TABLES = ("trainability", "two_way")  # figures whose numbers a paper prints as tables too


def write_latex(folder: Path | str, table: pd.DataFrame, facts: Facts) -> list[Path]:
    """Writes numbers.tex, tables.tex and captions.tex; all three need ``\\usepackage{booktabs}`` and UTF-8 alone."""
    folder = Path(folder)
    head = f"% Made by fdlab from a table with sha256 {table_digest(table)}. Do not edit: make it again.\n"
    texts = {
        "numbers.tex": head
        + _legend(table, facts)
        + "\n".join(f"\\newcommand{{{name}}}{{{text}}}" for name, text in macros(table, facts)),
        "tables.tex": head + "\n".join(tables(table, facts)),
        "captions.tex": head + "\n".join(captions(table, facts)),
    }
    for name, text in texts.items():
        write_text(folder / name, text + "\n")
    return [folder / name for name in texts]


def _legend(table: pd.DataFrame, facts: Facts) -> str:
    """Which model a macro speaks of, as comments."""
    words = _words(models(table, facts))
    return "".join(f"% \\fd{own}...: {' '.join(name.split())}\n" for name, own in words.items())


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(_ESCAPES.get(c, c) for c in text)


def word(text: str) -> str:
    """Letters only, as a macro's name needs: ``r2_relative`` -> ``RTwoRelative``."""
    spelt = re.sub(r"[0-9]", lambda found: f" {_DIGITS[int(found.group())]} ", text)
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z]+", spelt) if part)


def macros(table: pd.DataFrame, facts: Facts) -> list[tuple[str, str]]:
    """Every headline number: name of the macro (with its backslash) and what it prints."""
    words = _words(models(table, facts))
    found: dict[str, str] = {}
    for name, metric, value in _headlines(table, facts):
        base = f"\\fd{words[name]}{word(metric)}"
        found |= dict(_forms(base, metric, value))
    for model, reference, metric, value in _changes(table):
        if model in words and reference in words:
            found |= dict(_forms(f"\\fd{words[model]}Minus{words[reference]}{word(metric)}", metric, value, sign="+"))
    return list(found.items())


def _words(names: list[str]) -> dict[str, str]:
    """A model's part of a macro name; models with the same letters are numbered in their order."""
    words: dict[str, str] = {}
    for name in names:
        own = word(name) or "Model"
        count = sum(1 for taken in words.values() if re.fullmatch(f"{own}(No[A-Z][a-z]+)*", taken))
        words[name] = f"{own}No{word(str(count + 1))}" if count else own
    return words


def _headlines(table: pd.DataFrame, facts: Facts) -> Iterator[tuple[str, str, Estimate]]:
    numbers = summary(table, facts)
    columns = [c for c in numbers.columns[2:] if not c.endswith(("_low", "_high"))]
    for row in numbers.to_dict("records"):
        for column in columns:
            yield str(row["model"]), column, Estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])


def _changes(table: pd.DataFrame) -> Iterator[tuple[str, str, str, Estimate]]:
    for (model, reference, metric), own in differences(table).groupby(["model", "reference", "metric"], sort=False):
        whole = own[own["block"].isna()]
        blocks = table[(table["metric"] == metric) & (table["reference"] == "") & table["block"].notna()]
        kept, start = (whole if len(whole) else late(own)), ("late_" if len(blocks) or whole.empty else "")
        yield str(model), str(reference), f"{start}{metric}", estimate(kept)


def _forms(base: str, column: str, value: Estimate, sign: str = "") -> Iterator[tuple[str, str]]:
    metric = column.removeprefix("late_")
    scale = 100.0 if is_share(metric) else 1.0
    digits = decimals(metric, value.value) if value.known else 0

    def text(number: float) -> str:
        return f"{scale * number:{sign}.{digits}f}".replace("-", "\\ensuremath{-}")

    if not value.known:
        yield base, "--"
        return
    yield base, text(value.value)
    if value.bounded:
        yield f"{base}Low", text(value.low)
        yield f"{base}High", text(value.high)
        yield f"{base}Ci", f"{text(value.value)} [{text(value.low)}, {text(value.high)}]"


def tables(table: pd.DataFrame, facts: Facts) -> list[str]:
    """The summary and, where there are differences, the pairwise table, as booktabs tabulars."""
    numbers = summary(table, facts)
    columns = [c for c in numbers.columns[2:] if not c.endswith(("_low", "_high"))]
    head = ["model", *(_label(column) for column in columns)]
    body = [
        [str(row["model"]), *(_cell(c, Estimate(row[c], row[f"{c}_low"], row[f"{c}_high"])) for c in columns)]
        for row in numbers.to_dict("records")
    ]
    parts = [_tabular(head, body, plain=1)]
    found = pairwise(table, facts)
    if len(found):
        parts.append(_tabular(list(found.columns), found.astype(str).to_numpy().tolist(), plain=len(found.columns)))
    for figure in AS_TABLES:
        module = figure_module(figure)
        if module.present(table):
            shown = module.numbers(table, facts)
            parts.append(_tabular(list(shown.columns), shown.astype(str).to_numpy().tolist(), plain=len(shown.columns)))
    return parts


def _cell(column: str, value: Estimate) -> str:
    """The value with its interval where it has one."""
    forms = dict(_forms("", column, value))
    return forms.get("Ci", forms[""])


def _label(column: str) -> str:
    name = column.removeprefix("late_")
    label = METRICS[name].axis if name in METRICS else name
    label = f"{label} (%)" if is_share(name) else label
    return f"{label}{', late' if column.startswith('late_') else ''}"


def _tabular(head: list[str], body: list[list[str]], plain: int) -> str:
    """A booktabs tabular; the first ``plain`` columns are text to be escaped, the rest is LaTeX already."""
    lines = [f"\\begin{{tabular}}{{{'l' * len(head)}}}", "\\toprule"]
    lines.append(" & ".join(map(escape, head)) + r" \\")
    lines.append("\\midrule")
    lines += [" & ".join([*map(escape, row[:plain]), *row[plain:]]) + r" \\" for row in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def captions(table: pd.DataFrame, facts: Facts) -> list[str]:
    """``\\fdCaptionFIGURE`` for every figure that the table has."""
    return [
        f"\\newcommand{{\\fdCaption{word(figure)}}}{{{escape(' '.join(figure_module(figure).caption(table, facts)))}}}"
        for figure in available(table)
    ]
