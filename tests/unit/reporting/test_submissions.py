"""`lavish submit-check`: a good submission, and each thing that may be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavish.cli.main import main
from lavish.config.hashing import canonical_json
from lavish.config.options import task_measures
from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning.identities import Identities
from lavish.planning.run_labels import RunLabel, update_index
from lavish.reporting.submissions import CHECKSUMS, check, seal
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store

TASK = "event_localization"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed submission of two rows, one of them selected on the test split. Do not change it: take a copy."""
    work = tmp_path_factory.mktemp("submission")
    folder = work / "good"
    for seed, split in enumerate(("train", "val", "test")):
        write_store(work / "data" / split, seed=seed)
    identities, rows, labels = Identities(), [], []
    identities.needs_inputs = False
    for variant, select_on in (("ours", "val"), ("published", "test")):
        run = identities.run(parse(RunConfig, run_values(select_on=select_on), "test"))
        provide_weights(run.config.backbone, work / "vit.safetensors")
        place = folder / "results/runs" / run.name
        for seed in range(3):
            inputs = RunInputs(run.config, seed, work / "data", work / "vit.safetensors")
            train(inputs, place / f"seed{seed}")
            evaluate(inputs, "test", place / f"seed{seed}")
            change(place / f"seed{seed}/record.json", git={"commit": "0" * 40, "dirty": False})
            (place / f"seed{seed}/best.safetensors").unlink()
        counts = ("trainable_params", "total_params", "adapter_params", "adapter_macs", "total_macs")
        (place / "cost.json").write_text(json.dumps(dict.fromkeys(counts, 1000)))
        label = variant.title()
        labels.append(RunLabel(run.name, "mine", TASK, variant, label))
        where = {TASK: {"folder": str(place), "select_on": select_on}}
        rows.append({"variant": variant, "label": label, "task": TASK, "runs": where})
    update_index(folder / "results/runs/index.csv", labels, ["mine"])
    spec = {
        "name": "mine", "title": "Mine", "task": TASK, "baseline": "ours", "columns": ["metric", "difference"],
        "seeds": [0, 1, 2], "measures": {TASK: [asdict(one) for one in task_measures(TASK).values()]},
        "sections": [{"title": "Rows", "rows": rows}], "facts": {"data": "random", "backbone": "random"},
    }  # fmt: skip
    assert main(["table", "--table", canonical_json(spec), "--out", str(folder / "table_mine")]) == 0
    (folder / "mine.yaml").write_text("title: Mine\n")
    description = {
        "title": "Mine", "authors": ["A. Author"], "date": "2027-03-01",
        "description": "Two rows on random numbers, for tests.", "configuration": ["mine.yaml"],
        "tables": ["table_mine.csv"], "test_selected": [labels[1].run],
    }  # fmt: skip
    (folder / "submission.yaml").write_text(yaml.safe_dump(description))
    seal(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "mine"))


def runs(folder: Path) -> tuple[Path, Path]:
    """Return the folders of the run selected on validation, and of the one selected on test."""
    described = yaml.safe_load((folder / "submission.yaml").read_text())["test_selected"]
    ours = [path for path in (folder / "results/runs").iterdir() if path.is_dir() and path.name not in described]
    return ours[0], folder / "results/runs" / described[0]


def found(folder: Path, *, sealed: bool = False, **options: bool) -> str:
    """Return what is wrong after a change; sealed again unless the checksums are what is tested."""
    if not sealed:
        (folder / CHECKSUMS).unlink(missing_ok=True)
        seal(folder)
    return "\n".join(check(folder, **options))


def test_a_good_submission(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(folder) == []
    assert main(["submit-check", str(folder)]) == 0
    assert "can be published" in capsys.readouterr().out


def describe(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "submission.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))

    return edit


def record(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(runs(folder)[0] / "seed0/record.json", **values)


def configuration(folder: Path) -> None:
    for path in runs(folder)[0].glob("seed*/record.json"):
        values = json.loads(path.read_text())
        values["config"]["training"]["epochs"] += 1
        path.write_text(json.dumps(values))


def renamed(folder: Path) -> None:
    run = runs(folder)[0]
    text = (folder / "table_mine.csv").read_text().replace(run.name, f"{TASK}-00000000")
    (folder / "table_mine.csv").write_text(text)
    run.rename(run.with_name(f"{TASK}-00000000"))


def other_code(folder: Path) -> None:
    for path in runs(folder)[0].glob("seed*/record.json"):
        values = json.loads(path.read_text())
        values["config"]["adapter"]["code"] = "0" * 16
        path.write_text(json.dumps(values))


def from_outside(folder: Path) -> None:
    for path in runs(folder)[0].glob("seed*/record.json"):
        values = json.loads(path.read_text())
        values["config"]["adapter"]["source"] = {"path": "lab/mine.py", "sha256": "0" * 64}
        path.write_text(json.dumps(values))


def unmarked(folder: Path) -> None:
    path = folder / "table_mine.md"
    path.write_text(path.read_text().replace("Published †", "Published"))


def wrong_number(folder: Path) -> None:
    path = folder / "table_mine.csv"
    lines = path.read_text().splitlines()
    columns = lines[0].split(",")
    values = lines[1].split(",")
    values[columns.index("seed1")] = "0.999"
    path.write_text("\n".join([lines[0], ",".join(values), *lines[2:]]) + "\n")


def one_seed_less(folder: Path) -> None:
    shutil.rmtree(runs(folder)[0] / "seed2")


def other_checkpoint(folder: Path) -> None:
    change(runs(folder)[0] / "seed0/record.json", checkpoint="0" * 64)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (describe(test_selected=[]), "its checkpoints were selected on the test split: name it below 'test_selected'"),
        (describe(test_selected=[f"{TASK}-ffffffff"]), f"names {TASK}-ffffffff, which is no run of this folder"),
        (describe(configuration=["none.yaml"]), "key 'configuration': there is no file none.yaml in this folder"),
        (describe(configuration=["../good/mine.yaml"]), "there is no file ../good/mine.yaml in this folder"),
        (unmarked, "row 'Published': selected on the test split, but not marked (†)"),
        (wrong_number, "row 'Ours': seed1 is 0.999, but the predictions give"),
        (one_seed_less, "2 seeds, but the protocol needs at least 3"),
        (lambda folder: shutil.rmtree(runs(folder)[0]), "is not in results/runs/ or not readable"),
        (lambda folder: shutil.rmtree(runs(folder)[0] / "seed1/test"), "seed1/test/metrics.json is missing"),
        (lambda folder: (runs(folder)[0] / "cost.json").unlink(), "cost.json is missing"),
        (lambda folder: (runs(folder)[0] / "seed0/record.json").write_text("{"), "not readable as JSON"),
        (record(git={"commit": "0" * 40, "dirty": True}), "made with uncommitted changes of the code"),
        (record(versions={}), "key 'versions' is missing"),
        (record(recipe_version=1), "key 'recipe_version' is 1, but this version has"),
        (record(config={}), "the configurations of its seeds differ"),
        (other_checkpoint, "of the checkpoint with sha256"),
        (configuration, "the folder was renamed, or a record was edited"),
        (renamed, "the folder was renamed, or a record was edited"),
        (other_code, "made with other code of 'lavish' than this version has"),
        (from_outside, "made with lab/mine.py: put this file into the folder"),
        (lambda folder: (folder / "table_mine.md").unlink(), "table_mine.md: missing: copy the table"),
        (lambda folder: (folder / "table_mine.csv").write_text("a,b\n1,2\n"), "not the CSV file of a table"),
        (lambda folder: (folder / "best.safetensors").write_text("x"), "checkpoints and files above 20 MB"),
        (lambda folder: (folder / "link.yaml").symlink_to("mine.yaml"), "a link: copy the file itself"),
    ],
)
def test_what_may_be_wrong(folder: Path, edit: Callable[[Path], None], message: str) -> None:
    edit(folder)
    assert message in found(folder)
    assert main(["submit-check", str(folder)]) == 1


def test_a_run_that_is_marked_without_reason(folder: Path) -> None:
    ours, published = runs(folder)
    describe(test_selected=[ours.name, published.name])(folder)
    assert "but its checkpoints were selected on val" in found(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda folder: (folder / CHECKSUMS).unlink(), "SHA256SUMS: missing: `lavish submit-check --seal"),
        (lambda folder: (folder / "mine.yaml").write_text("title: Edited\n"), "mine.yaml: differs from SHA256SUMS"),
        (lambda folder: (folder / "mine.yaml").unlink(), "mine.yaml: missing, but in SHA256SUMS"),
        (lambda folder: (folder / "new.yaml").write_text("a: 1\n"), "new.yaml: not in SHA256SUMS"),
        (lambda folder: (folder / CHECKSUMS).write_text("nonsense\n"), "line 1: not a checksum"),
        (lambda folder: (folder / CHECKSUMS).write_text(f"{'0' * 64}  ../x\n"), "line 1: not a checksum"),
    ],
)
def test_checksums(folder: Path, edit: Callable[[Path], None], message: str) -> None:
    edit(folder)
    assert message in found(folder, sealed=True)


@pytest.mark.parametrize("edit", [other_code, configuration])
def test_what_was_published_is_not_named_anew(folder: Path, edit: Callable[[Path], None]) -> None:
    edit(folder)
    assert found(folder) and not found(folder, published=True)


def test_a_method_from_outside_is_part_of_the_submission(folder: Path) -> None:
    from lavish.io.checksums import sha256_of

    (folder / "mine.py").write_text("raise SystemExit('never run')\n")
    for path in runs(folder)[0].glob("seed*/record.json"):
        values = json.loads(path.read_text())
        values["config"]["adapter"]["source"] = {"path": "lab/mine.py", "sha256": sha256_of(folder / "mine.py")}
        path.write_text(json.dumps(values))
    describe(methods=["mine.py"])(folder)
    assert found(folder) == ""


def test_a_seal_is_not_written_twice(folder: Path) -> None:
    with pytest.raises(LavishError, match="a published submission is never edited"):
        seal(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a mapping of keys"),
        ("title: Mine\n", "'authors'"),
        ("titel: Mine\n", "titel"),
    ],
)
def test_the_description(folder: Path, text: str, message: str) -> None:
    (folder / "submission.yaml").write_text(text)
    with pytest.raises(LavishError, match=message):
        check(folder)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="there is no folder"):
        check(tmp_path / "none")
    with pytest.raises(LavishError, match=r"submission\.yaml: missing"):
        check(tmp_path)


def test_without_submissions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit-check"]) == 0
    assert "no submissions" in capsys.readouterr().out
