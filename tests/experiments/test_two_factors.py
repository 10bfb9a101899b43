"""The two-factor study at toy size: who depends on whom, what is made again, what diverged, what the page says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fdlab.compare.evidence import NO_VALUES
from fdlab.compare.two_way import two_way
from fdlab.errors import FdlabError
from fdlab.experiments import stages
from fdlab.experiments.report import places, rewrite_study, write_study
from fdlab.experiments.stages import passes, pretraining, run
from fdlab.experiments.two_factors import CELLS, FAMILIES, FINE_TUNED, PROBES, Cell, Parts, Size, Study
from fdlab.experiments.values import cohort_of, lost, unmeasured, values
from fdlab.experiments.words import two_way_notes
from fdlab.randomness import stream
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame, write_table
from fdlab.report.figures.two_way import title_of

TOY = Size(
    name="toy",
    train="digits#train[:120]",
    test="digits#test[:40]",
    validation=20,
    common={"run.batch": 8, "run.precision": "float32", "run.device": "cpu", "data.size": 16},
    model={"width": 16, "depth": 2, "heads": 2},
    steps={"contrastive": 2, "masked": 2, "supervised": 2, "distill": 2, "finetune": 2, "few": 2},
    rates=(1e-3, 1e-2),
    few=(3,),
    images={"attention": 8, "features": 40, "hessian": 2, "sharpness": 2},
)
KIND = tuple(cell for cell in CELLS if cell.kind in ("masked", "random"))


def test_every_model_has_its_teacher_control_and_the_same_budget() -> None:
    assert len(set(CELLS)) == 15
    stages = passes(Study(Path("w"), TOY, [0, 1]))
    jobs = stages["models"]
    assert len(jobs) == 2 * 13  # an untrained model is no training
    assert jobs["masked-student-distilled 1"].needs == ("masked-plain 1",)
    assert jobs["random-student-distilled 0"].needs == ("contrastive-plain 0",)
    assert jobs["random-student-distilled 0"].keywords["overrides"]["distill.teacher"].startswith("random:")
    taught = jobs["masked-student-distilled 1"].keywords["overrides"]["distill.teacher"]
    assert taught == str(Path("w/seed-1/pretrained/masked-plain"))  # of its own seed, of the plain design
    assert stages["probes"]["attention random-student 1"].needs == ("contrastive-student 1",)
    scales = {(start.label, start.overrides.get("classify.bias_scale")) for start in Study(Path("w"), TOY, [0]).starts}
    assert {(cell.label, 10 if cell.design == "student" else None) for cell in CELLS} == scales
    tuned = list(stages["fine-tuning"].values())
    assert len(tuned) == 2 * 15 * 2
    budgets = {json.dumps({k: v for k, v in job.keywords["overrides"].items() if k in BUDGET}) for job in tuned}
    assert len(budgets) == 1
    held = jobs["supervised-plain 1"].keywords["overrides"]
    assert (held["data.validation"], held["data.label_seed"]) == (TOY.validation, 1)  # not learnt from


BUDGET = ("run.steps", "run.batch", "data.source", "data.test", "data.validation")


def test_values_are_means_of_late_blocks_and_logarithms() -> None:
    common = {"model": "masked, plain", "family": "mim", "seed": 0}
    late = [{**common, "probe": "attention", "metric": "nmi", "depth": d, "value": v} for d, v in ((0.5, 9), (1, 2))]
    sharp = {**common, "probe": "hessian", "metric": "eigenvalue_1_balanced", "value": 1000.0}
    found = values(frame([*late, sharp])).set_index("metric")["value"]
    assert found.to_dict() == {"nmi": 2.0, "eigenvalue_1_balanced": pytest.approx(3.0)}
    (left,) = unmeasured(values(frame([*late, sharp])))
    assert "few labels" in left
    assert "Hessian" not in left


def test_the_cohort_names_teachers_and_controls() -> None:
    members = {member.label: member for member in cohort_of(CELLS).model}
    student = members["contrastive distilled, student"]
    assert (student.pair_of, student.control, student.design) == ("contrastive, plain", "random, student", "student")
    assert members["random, plain"].control == ""


def asked(cell: Cell, _seed: int) -> Mapping[str, Parts]:
    """Fine-tuned weights of one model alone; a function of the module, since the workers' processes look it up."""
    return PROBES | FINE_TUNED if cell.label == "masked, student" else PROBES


@pytest.mark.slow
def test_a_study_is_continued_and_repaired_and_its_page_says_what_is_lost(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"

    def times() -> dict[Path, int]:
        found = [*work.rglob("run.json"), *(work / "records").rglob("manifest.json")]
        return {path.relative_to(work): path.stat().st_mtime_ns for path in found if "store" not in path.parts}

    study = Study(work, replace(TOY, asked=asked), [0], KIND)
    run(study, quiet=True)
    before = times()
    assert len([path for path in before if "pretrained" in path.parts]) == 7
    shutil.rmtree(work / "seed-0" / "pretrained" / "masked-student")
    tuned = work / "finetuned" / "masked--plain_seed-0" / "lr-0.01"
    shutil.rmtree(tuned)
    RunFolder(tuned).path.mkdir()
    (tuned / "failed.json").write_text('{"why": "the loss is not a number"}')
    run(study, quiet=True)
    after = times()
    changed = {path.parts for path in after if after[path] != before.get(path)}
    assert changed == {("seed-0", "pretrained", "masked-student", "run.json")}
    made = write_study(out, study, command="make study", data="digits", limits=["toy"])
    own = made["table"][made["table"]["probe"] == "two_way"]
    assert set(own["model"]) == {"masked"}
    curved = made["table"][(made["table"]["probe"] == "fine_tuned") & (made["table"]["model"] == "masked, student")]
    clean, augmented = (curved[curved["objective"].str.contains(word)] for word in ("classifier; ", "own fine-tuning"))
    assert len(clean) and len(augmented)
    assert clean["value"].tolist()[0] != augmented["value"].tolist()[0]
    lines = (out / "README.md").read_text()
    assert "| 1 of 2 |" in lines
    assert "1 of 3 fine-tunings of masked, plain, seed 0, diverged." in lines
    assert "make study" in (out / "index.html").read_text()
    shutil.rmtree(work)  # the report's own tables are enough to write it again
    again = rewrite_study(out)
    assert (out / "README.md").read_text() == lines
    assert again["facts"]["claims"] == made["facts"]["claims"]
    pd.testing.assert_frame_equal(again["table"], made["table"], rtol=1e-8, check_dtype=False)


def test_each_seed_is_measured_on_images_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an interval over seeds holds the scatter of images too; the models of one seed share them."""
    asked: list[dict[str, object]] = []

    def listen(_encoder: object, label: str, _store: object, **settings: object) -> Record:
        asked.append({"label": label, **settings})
        return Record(frame([]), {}, {})

    monkeypatch.setattr(stages, "_part", listen)
    monkeypatch.setattr("fdlab.checkpoints.open.open_model", lambda *_, **__: None)
    study = Study(tmp_path, TOY, [0, 1])
    for seed in study.seeds:
        for cell in (Cell("contrastive", "plain"), Cell("masked", "plain")):
            stages._answer(study, cell, seed, "hessian", [{"k": 1}], study.source(cell, seed))
    assert [each["seed"] for each in asked] == [0, 0, 1, 1]


def test_what_is_fine_tuned_is_measured_at_the_best_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, cell = Study(tmp_path, TOY, [0]), Cell("masked", "student", distilled=True)
    assert stages._measured(study, cell, 0, "hessian")[1] == study.source(cell, 0)
    assert stages._measured(study, cell, 0, "fine-tuned")[0] == ""  # no fine-tuning has ended
    monkeypatch.setattr(type(study.search), "best_rate", lambda *_: 1e-2)
    run, source, before = stages._measured(study, cell, 0, "fine-tuned-augmented")
    assert run == source == str(study.search.run(study.start(cell, 0), 1e-2).path)
    assert before == study.start(cell, 0).after


def test_curvature_around_fine_tuned_weights_has_measures_of_its_own(tmp_path: Path) -> None:
    """Clean, augmented and at one loss are three measures, none of them the start's, and no claim reads them."""
    row = {"model": "masked, plain", "family": "mim", "seed": 0, "metric": "eigenvalue_1_balanced", "value": 10.0}
    own = "cross-entropy of the model's own"
    losses = {
        "": ("hessian", "cross-entropy of a linear probe"),
        ", after fine-tuning": ("fine_tuned", f"{own} classifier; 2 images"),
        ", after fine-tuning, augmented images": ("fine_tuned", f"{own} fine-tuning (flip 0.5); 2 images"),
        ", after fine-tuning, at a loss of 2": (
            "fine_tuned",
            f"{own} classifier; 2 images; logits scaled to a mean loss of 2",
        ),
    }
    found = values(frame([{**row, "probe": probe, "objective": objective} for probe, objective in losses.values()]))
    named = {title_of(line).removeprefix("largest Hessian eigenvalue, balanced") for _, line in found.iterrows()}
    assert named == {f"{ending} (log10)" for ending in losses}
    assert "fine-tuned weights" not in " ".join(unmeasured(found))
    assert "curvature around the fine-tuned weights" in " ".join(unmeasured(found[:1]))
    assert "fine_tuned" in NO_VALUES
    study = Study(tmp_path, TOY, [0])
    jobs = passes(study)["curvature after fine-tuning"]
    assert len(jobs) == 3 * len(study.cells)
    assert set(next(iter(jobs.values())).needs) <= set(passes(study)["fine-tuning"])


def test_a_report_of_something_else_is_not_taken_for_the_study(tmp_path: Path) -> None:
    row = {"model": "a", "family": "mim", "seed": 0, "probe": "attention", "metric": "nmi", "value": 0.5}
    write_table(tmp_path / "table.csv", frame([row]))
    with pytest.raises(FdlabError, match="no report of this study"):
        rewrite_study(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_what_survives_the_correction_is_said_by_kind() -> None:
    rows, draw = [], stream(0, "said")
    for seed in range(5):
        level = draw.normal(0, 1)
        for cell in (cell for cell in CELLS if cell.kind == "masked"):
            row = {"model": cell.label, "family": cell.family, "seed": seed, "probe": "cells", "metric": "nmi"}
            rows.append({**row, "value": level - 0.5 * (cell.design == "student") + draw.normal(0, 0.02)})
    notes = two_way_notes(two_way(frame(rows), places(CELLS), FAMILIES))
    said = {note.partition(":")[0]: note for note in notes}
    papers = "Paper's student minus its teacher"
    assert said[papers] == (
        f"{papers}: 1 of 1 measures and kinds survive the correction: masked: lower normalised mutual information."
    )
    own = next(note for note in notes if note.startswith("In the teacher's design"))
    assert own.endswith("0 of 1 measures and kinds survive the correction.")
    assert len(notes) == 6


def test_a_teacher_that_diverged_is_said_and_its_student_has_no_result(tmp_path: Path) -> None:
    teacher = Cell("masked", "plain")
    student = Cell("masked", "student", True)
    study = Study(tmp_path, TOY, [0], (teacher, student))
    folder = Path(study.run(teacher, 0))
    folder.mkdir(parents=True)
    (folder / "failed.json").write_text('{"why": "the loss is not a number"}')
    jobs = pretraining(replace(study, cells=(student,)))
    job = jobs["masked-student-distilled 0"]
    assert job.call(**job.keywords) == {}
    assert not Path(job.keywords["run"]).exists()  # nothing is kept: a teacher made again has its students made too
    said = lost(study)
    assert [sentence.partition(":")[0] for sentence in said] == [
        "masked, plain, seed 0, has no result",
        "masked distilled, student, seed 0, has no result",
    ]


def test_seeds_given_twice_and_too_few_images_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="twice"):
        run(Study(tmp_path, TOY, [0, 0]))
    with pytest.raises(FdlabError, match="40 test images"):
        run(Study(tmp_path, replace(TOY, images={**TOY.images, "features": 41}), [0]))
    assert not any(tmp_path.iterdir())


def test_a_report_drawn_again_says_which_lineage_a_model_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports from before lineages were stated would else count a method's two designs as two."""
    from fdlab.compare.cohort import Cohort
    from fdlab.compare.lineage import lineages
    from fdlab.experiments import report

    before = [member.model_copy(update={"lineage": ""}) for member in cohort_of(CELLS).model]
    row = {"model": CELLS[0].label, "seed": 0, "probe": "attention", "metric": "nmi", "value": 0.5}
    write_table(tmp_path / "table.csv", frame([row]))
    (tmp_path / "facts.json").write_text(json.dumps({**Cohort(model=before).facts(), "lost": []}))
    monkeypatch.setattr(report, "_write", lambda _out, _known, facts, _cells, again: facts)
    found = lineages(Cohort.model_validate({"model": report.rewrite_study(tmp_path)["cohort"]}))
    assert set(found.values()) == {"contrastive", "masked", "supervised", "random"}
    assert len(set(lineages(Cohort(model=before)).values())) == 8
