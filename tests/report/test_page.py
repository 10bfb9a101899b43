"""The page: whole, self-contained, safe against names, and silent about what a table does not have."""

from __future__ import annotations

import base64
import gzip
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mock_study import RANDOM_A, STUDENT, TEACHER, study_facts, study_table

from fdlab.records.table import frame, join, read_table
from fdlab.report.alerts import alerts
from fdlab.report.answers import answers
from fdlab.report.facts import Facts as Facts_
from fdlab.report.figures import FIGURES, figure_of, write_figures
from fdlab.report.page import HERO, SHOWN, page, write_page
from fdlab.report.report import Report
from fdlab.report.style import DARK
from fdlab.report.teach import lessons

Facts = dict[str, Any]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reading(HTMLParser):
    """Collects tags, ids, references and headings, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.roles: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src", "action", "data"):
                self.references.append(value or "")
            if name == "role":
                self.roles.append(f"{tag}:{value}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()


@pytest.fixture(scope="module")
def text() -> str:
    return page(Report(study_table(), study_facts()))


def test_ids_are_unique_and_every_reference_has_its_target(text: str) -> None:
    read = Reading(text)
    assert len(read.ids) == len(set(read.ids))
    inside = {reference[1:] for reference in read.references if reference.startswith("#")}
    inside |= set(re.findall(r"url\(#([^)]+)\)", text))
    labels = re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', text)
    inside |= {word for label in labels for word in label.split()}
    assert inside
    assert inside <= set(read.ids)


def test_nothing_is_fetched(text: str) -> None:
    read = Reading(text)
    shades = "data:image/png;base64,"  # of the maps, in their figures
    inside, beside = [ref for ref in read.references if not ref.startswith(("#", shades))]
    assert inside.startswith("data:application/gzip;base64,")
    assert beside == "table.csv"
    with_files = Reading(page(Report(study_table(), study_facts()), ["position"], files=True)).references
    assert [ref for ref in with_files if ref.endswith(".pdf")] == ["figures/position.pdf"]
    assert not re.search(r"https?://|@import|url\((?!#)|fetch\(|XMLHttp|import\(", text)
    assert not {"link", "iframe", "img"} & set(read.tags)
    assert "default-src 'none'" in text


def test_the_table_inside_is_the_table(text: str, tmp_path: Path) -> None:
    (packed,) = re.findall(r'data:application/gzip;base64,([^"]+)', text)
    (tmp_path / "table.csv").write_bytes(gzip.decompress(base64.b64decode(packed)))
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.csv"), study_table())


def test_size_structure_and_order(text: str) -> None:
    assert len(text.encode()) < 60_000 * len(FIGURES)
    read = Reading(text)
    assert read.roles.count("figure:group") == read.roles.count("svg:img") == len(FIGURES)
    assert read.tags.count("h1") == 1
    assert read.tags.count("details") >= 2 * len(FIGURES) + 1  # more and the numbers of each, the measures
    hero = next(name for name in HERO if name in FIGURES)
    title = figure_of(hero, Report(study_table(), study_facts())).title
    order = [title, "All models", "How alike the heads of a block are", "Deeper", "What this cannot show", "Provenance"]
    places = [text.index(f"{word}</h2>") for word in order]
    assert places == sorted(places)
    folded = text[text.index("Deeper</h2>") : text.index("What this cannot show</h2>")]
    assert folded.count("data-figure") == folded.count('<details class="fold">') == len(set(FIGURES) - set(SHOWN))
    assert text.index('href="#content"') < text.index("<h1>")


def test_facts_are_printed(text: str, facts: Facts) -> None:
    for note in facts["notes"]:
        assert note.replace("'", "&#39;") in text
    for word in (
        "learning rates 1e-3",
        "200 labelled, 400 validation, 500 test",
        "2.14.1",
        "93.5",
        "--seed 0",
    ):
        assert word in text
    assert re.search(r"97\.0<span.*?</span><small>\(95\.5 to 98\.5\)</small>", text)
    assert "differ in architecture" in text
    assert "not repeated trainings" in text


def test_colours_follow_the_scheme(text: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert not re.findall(r"#[0-9a-f]{6}\b", figures)
    for name in set(re.findall(r"var\((--c[0-9a-f]{6})\)", figures)):
        assert f"#{name[3:]}" in DARK
        assert text.count(f"{name}: ") == 3  # light, dark by the system, dark by the button
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_nasty_names_are_escaped(table: pd.DataFrame, facts: Facts) -> None:
    name = "<script>alert('x')</script>\"&"
    nasty = table.assign(model=table["model"].replace(STUDENT, name)).astype(table.dtypes)
    facts = {
        **facts,
        "title": name,
        "notes": [name],
        "command": name,
        "options": {name: [name]},
        "order": [name],
        "distil_loss": {name: 0.1},
        "versions": {name: name},
        "seconds": {name: 1.0},
    }
    text = page(Report(nasty, facts))
    assert Reading(text).tags.count("script") == text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;" in text


def test_partial_tables_give_partial_pages(table: pd.DataFrame) -> None:
    attention = page(Report(table[(table["probe"] == "attention") & (table["model"] == TEACHER)], {}))
    assert "Attention distance of every head" in attention
    for absent in (
        "Accuracy after",
        "accuracy (%)",
        "A ruler",
        "Training loss",
        "What was found",
        "teacher_r2",
    ):
        assert absent not in attention, absent
    ruler = page(Report(table[table["probe"] == "ruler"], {}))
    assert "The models</h2>" not in ruler
    assert "A ruler" in ruler
    only = page(Report(table, {}), ["finetune"])
    assert "Accuracy after" in only
    assert "A ruler" not in only


def test_nan_is_no_word_of_the_page(table: pd.DataFrame, facts: Facts) -> None:
    table.loc[table["metric"].str.startswith("r2_") & (table["model"] == RANDOM_A), "value"] = np.nan
    table.loc[table["model"] == STUDENT, ["value", "low", "high"]] = np.nan
    assert not re.search(r"\bnan\b", page(Report(table, facts)), flags=re.I)


def test_written_with_its_table_and_again_the_same(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    path = write_page(tmp_path / "index.html", Report(table, facts), ["finetune", "teacher"])
    first = path.read_bytes()
    stored = read_table(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(stored, table)  # the CSV keeps ten digits
    assert write_page(path, Report(table, facts), ["finetune", "teacher"]).read_bytes() == first


def test_a_figure_that_was_just_drawn_is_not_drawn_again(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    names = ["attention_distance", "position"]
    files = write_figures(tmp_path, Report(table, facts), names)
    drawn = {figure: paths[1].read_text(encoding="utf-8") for figure, paths in files.items()}
    assert page(Report(table, facts), names, drawn=drawn) == page(Report(table, facts), names)
    drawn["position"] = drawn["position"].replace("<path", "<circle", 1)
    assert page(Report(table, facts), names, drawn=drawn) != page(Report(table, facts), names)


def test_verdicts_alerts_and_pairs_come_first(table: pd.DataFrame, facts: Facts) -> None:
    same = {"model": STUDENT, "reference": TEACHER, "probe": "attention", "metric": "nmi", "value": 0.2, "n": 256}
    changes = [{**same, "low": 0.1, "high": 0.3, "block": 3, "depth": 1.0}]
    changes += [{**same, "metric": "entropy", "low": -0.1, "high": 0.5, "block": 3, "depth": 1.0}]
    claims = [{"verdict": "does not hold", "statement": "Heads spread", "effect": "-0.1 (-0.2 to -0.0)"}]
    facts = {**facts, "claims": claims, "images": 8, "models": {TEACHER: {"source": "runs/a", "sha256": "ab12"}}}
    text = page(Report(join([table, frame(changes)]), facts))
    order = ["<h1>", "Too few images: 8", "Heads spread", "All models</h2>", "Pair by pair:"]
    assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)
    assert "+0.20 (+0.10 to +0.30)</td><td>higher" in text
    assert "+0.20 (-0.10 to +0.50)</td><td>no clear difference" in text
    assert "sha256 ab12" in text
    # A difference is no value: the figures do not see it.
    assert "Attention distance" in page(Report(join([table, frame(changes)]), facts), ["attention_distance"])


def test_groups_have_their_own_answers_and_what_is_lacking_is_said_once(table: pd.DataFrame, facts: Facts) -> None:
    both = [
        {"group": "of A", "verdict": "supported", "text": "+1"},
        {"group": "of B", "verdict": "does not hold", "text": "-2"},
    ]
    facts["claims"] = [
        {
            "verdict": "does not hold",
            "said": "supported for of A; does not hold for of B",
            "statement": "X.",
            "answers": both,
        },
        *({"verdict": "not tested", "statement": name, "effect": "no such model"} for name in ("Y.", "Z.")),
    ]
    text = page(Report(table, facts), ["position"])
    assert 'class="does-not-hold"' in text and "of A</b>: supported. +1" in text
    assert text.count("no such model") == 1 and "Y. Z." in text and "2 claims that" in text


def sentences(report: Report) -> list[str]:
    return [alert.sentence for alert in alerts(report)]


def test_an_alert_stands_at_the_figure_that_it_concerns(table: pd.DataFrame, facts: Facts) -> None:
    alike = table["metric"].eq("head_similarity") & table["model"].eq(TEACHER)
    table.loc[alike, "value"] = 0.97
    text = page(Report(table, {**facts, "images": 8}))
    at = text.index("Heads nearly alike")
    assert text.rindex("<section", 0, at) == text.rindex("<section", 0, text.index('id="head-similarity"'))
    assert text.index("8 images</summary>") < text.index("<section")
    alone = page(Report(table, facts), ["position"])  # the figure is not shown: the alert still is
    assert alone.index("Heads nearly alike") < alone.index("<section")


def test_answers_are_the_findings_or_the_claims_that_say_most(facts: Facts) -> None:
    claims = [
        {"verdict": "undecided", "statement": "P1. Premise.", "effect": "x"},
        {"verdict": "holds, not attributable", "statement": "H9. Maps.", "effect": "+0.2; more"},
        {"verdict": "undecided", "statement": "H1. Better.", "effect": "-1 (-4 to +2), 3 seeds; power"},
        {"verdict": "undecided", "statement": "H7. Spread.", "effect": "y"},
        {"verdict": "not tested", "statement": "H12. Dense.", "effect": "z"},
    ]
    found = answers(Facts_.read({"claims": claims}))
    assert [answer.question for answer in found] == ["H1. Better.", "H9. Maps.", "H7. Spread."]
    assert found[0].sentence == "Undecided." and found[0].limit == "-1 (-4 to +2), 3 seeds"
    assert answers(Facts_.read({})) == []
    same = {"limit": "l", "badge": "", "trainings": 1}
    stated = [{"question": name, "sentence": f"{name}!", **same} for name in ("reach", "reach", "spread", "accuracy")]
    assert [answer.sentence for answer in answers(Facts_.read({"findings": stated}))] == [
        "accuracy!",
        "reach!",
        "spread!",
    ]


def test_alerts_follow_their_limits(table: pd.DataFrame, facts: Facts) -> None:
    assert not any("head similarity" in text for text in sentences(Report(table, facts)))
    alike = table["metric"].eq("head_similarity") & table["model"].eq(TEACHER) & table["block"].isin([1, 2])
    table.loc[alike, "value"] = 0.97
    said = f"{TEACHER}: head similarity 0.97 in blocks 2-3: heads do nearly the same."
    assert said in sentences(Report(table, facts))
    table.loc[table["metric"].eq("nmi") & table["model"].eq(STUDENT), "value"] = np.nan
    assert any(text.startswith(f"{STUDENT}: 16 of ") for text in sentences(Report(table, facts)))
    other = {**facts, "uniform_px": {TEACHER: 12.3, STUDENT: 24.6}}
    assert any("different grids" in text for text in sentences(Report(table, other)))


def test_teaching_asks_before_it_shows(table: pd.DataFrame, facts: Facts) -> None:
    plain, taught = (
        page(Report(table, facts), ["finetune"]),
        page(Report(table, facts), ["finetune"], teach=True),
    )
    assert "Predict first" not in plain
    assert taught.index("Predict first") < taught.index("Show the figure") < taught.index("<figure")
    assert taught.index("<figure") < taught.index("Exercise.") < taught.index("Glossary</h2>")
    Reading(taught)


def test_every_card_belongs_to_a_figure() -> None:
    assert set(lessons()["predict"]) <= set(FIGURES)
