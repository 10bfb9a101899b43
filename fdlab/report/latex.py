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
from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.records.metrics import METRICS
from fdlab.report.figures import available, figure_of
from fdlab.report.findings import by_question
from fdlab.report.numbers import decimals, is_share
from fdlab.report.pairs import changes, pairwise
from fdlab.report.report import Report

_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_ESCAPES = {c: f"\\{c}" for c in "#$%&_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": r"\ensuremath{-}",
    "…": r"\ldots{}",
    "[": "{[}",  # behind a row's end it would be read as that command's option
}
AS_TABLES = ("trainability", "two_way")  # figures whose numbers a paper prints as tables too


def write_latex(folder: Path | str, report: Report) -> list[Path]:
    """Writes numbers, tables, captions and findings (.tex); they need ``\\usepackage{booktabs}`` and UTF-8 alone."""
    folder = Path(folder)
    head = f"% Made by fdlab from a table with sha256 {report.digest}. Do not edit: make it again.\n"
    words = _words(report.models)
    legend = "".join(f"% \\fd{word}...: {' '.join(name.split())}\n" for name, word in words.items())
    texts = {
        "numbers.tex": legend + "\n".join(f"\\newcommand{{{name}}}{{{text}}}" for name, text in macros(report)),
        "tables.tex": "\n".join(tables(report)),
        "captions.tex": "\n".join(captions(report)),
        "findings.tex": "\n".join(sentences(report)),
    }
    for name, text in texts.items():
        write_text(folder / name, f"{head}{text}\n")
    return [folder / name for name in texts]


def escape(text: str) -> str:
    """Text as LaTeX shows it.

    >>> print(escape("94 % of a_b"))
    94 \\% of a\\_b
    """
    return "".join(_ESCAPES.get(c, c) for c in text)


def word(text: str) -> str:
    """Letters only, as a macro's name needs.

    >>> word("r2_relative")
    'RTwoRelative'
    """
    spelt = re.sub(r"[0-9]", lambda digit: f" {_DIGITS[int(digit.group())]} ", text)
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z]+", spelt) if part)


def macros(report: Report) -> list[tuple[str, str]]:
    """Every headline number: name of the macro (with its backslash) and what it prints."""
    words = _words(report.models)
    macros: dict[str, str] = {}
    for name, columns in report.headlines().items():
        for column, value in columns.items():
            macros |= dict(_forms(f"\\fd{words[name]}{word(column)}", column, value))
    for change in changes(report.table):
        if change.model in words and change.reference in words:
            column = f"{'late_' if change.late else ''}{change.metric}"
            name = f"\\fd{words[change.model]}Minus{words[change.reference]}{word(column)}"
            value = change.value if change.comparable else UNKNOWN
            macros |= dict(_forms(name, column, value, sign="+"))
    return list(macros.items())


def _words(names: list[str]) -> dict[str, str]:
    """A model's part of a macro name; models with the same letters are numbered in their order."""
    words: dict[str, str] = {}
    for name in names:
        letters = word(name) or "Model"
        count = sum(1 for taken in words.values() if re.fullmatch(f"{letters}(No[A-Z][a-z]+)*", taken))
        words[name] = f"{letters}No{word(str(count + 1))}" if count else letters
    return words


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


def tables(report: Report) -> list[str]:
    """The summary and, where there are differences, the pairwise table, as booktabs tabulars."""
    headlines = report.headlines()
    columns = list(next(iter(headlines.values()), {}))
    body = [[name, *(_cell(column, value) for column, value in row.items())] for name, row in headlines.items()]
    parts = [_tabular(["model", *map(_label, columns)], body, plain=1)]
    differences = pairwise(report)
    if len(differences):
        parts.append(_of_text(differences))
    for figure in AS_TABLES:
        subject = figure_of(figure, report)
        if subject.present:
            parts.append(_of_text(subject.numbers()))
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


def _of_text(rows: pd.DataFrame) -> str:
    """A table of text as a tabular."""
    return _tabular(list(rows.columns), rows.astype(str).to_numpy().tolist(), plain=len(rows.columns))


def _tabular(head: list[str], body: list[list[str]], plain: int) -> str:
    """A booktabs tabular; the first ``plain`` columns are text to be escaped, the rest is LaTeX already."""
    lines = [f"\\begin{{tabular}}{{{'l' * len(head)}}}", "\\toprule"]
    lines.append(" & ".join(map(escape, head)) + r" \\")
    lines.append("\\midrule")
    lines += [" & ".join([*map(escape, row[:plain]), *row[plain:]]) + r" \\" for row in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def captions(report: Report) -> list[str]:
    """``\\fdCaptionFIGURE`` for every figure that the report has."""
    sentences = {figure: " ".join(figure_of(figure, report).caption()) for figure in available(report)}
    return [f"\\newcommand{{\\fdCaption{word(name)}}}{{{escape(text)}}}" for name, text in sentences.items()]


def sentences(report: Report) -> list[str]:
    """``\\fdFindingQUESTION``, the sentence of each answered question, and ``...Limit``, what it does not say."""
    lines = []
    for _, first, _ in by_question(report.facts.findings):
        name = f"\\fdFinding{word(str(first['question']))}"
        lines += [f"\\newcommand{{{name}}}{{{escape(str(first['sentence']))}}}"]
        lines += [f"\\newcommand{{{name}Limit}}{{{escape(str(first['limit']))}}}"]
    return lines
