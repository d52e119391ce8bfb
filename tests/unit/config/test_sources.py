"""Methods and tasks from outside the package: files and entry points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lavish.config import sources
from lavish.config.measures import Measure
from lavish.config.options import add_source, budget_option, option_model, summary, task_measures
from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.methods.registry import adapter_class
from lavish.planning.identities import Identities
from lavish.tasks.registry import task_class
from tests.external import METHOD, TASK, install, write
from tests.stores import run_values


@pytest.fixture(autouse=True)
def no_sources_left():
    yield
    sources.forget_files()


@pytest.fixture
def method(tmp_path: Path) -> Path:
    return write(tmp_path / "mean.py", METHOD)


def run(**changes: object) -> RunConfig:
    return parse(RunConfig, run_values(adapter={"method": "mean"}, **changes), "test")


def test_a_file_is_a_method(method: Path):
    assert add_source("methods", method) == "mean"
    assert "mean" in sources.available("methods")
    assert list(option_model("methods", "mean").model_fields) == ["width"]
    assert budget_option("mean") == "width"
    assert summary("methods", "mean") == "A gated bottleneck on the mean token of the other stream."
    assert adapter_class("mean").__name__ == "MeanAdapter"


def test_a_file_is_a_task(tmp_path: Path):
    add_source("tasks", write(tmp_path / "labels.py", TASK))
    assert task_class("labels").metric == Measure("accuracy") == task_measures("labels")["accuracy"]


def test_options_of_a_file_are_read_without_importing_torch(method: Path):
    code = (
        "import sys; from pathlib import Path; from lavish.config.options import add_source, option_model; "
        f"add_source('methods', Path({str(method)!r})); option_model('methods', 'mean'); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_resolved_run_names_path_and_checksum(method: Path):
    found = sources.add_file("methods", method)
    source = run().model_dump(mode="json")["adapter"]["source"]
    assert source == {"path": str(method), "sha256": found.sha256}


def test_another_process_finds_the_file_by_the_resolved_run(method: Path):
    add_source("methods", method)
    resolved = run().model_dump(mode="json")
    sources.forget_files()
    assert parse(RunConfig, resolved, "test").adapter.method == "mean"
    assert adapter_class("mean").__name__ == "MeanAdapter"


def test_a_file_that_changed_since_planning_is_an_error(method: Path):
    add_source("methods", method)
    resolved = run().model_dump(mode="json")
    sources.forget_files()
    method.write_text(METHOD + "# edited\n")
    with pytest.raises(LavishError, match=r"key 'adapter': .*mean.py has changed since the run was planned"):
        parse(RunConfig, resolved, "test")


def test_an_identity_contains_the_code_and_not_the_path(method: Path, tmp_path: Path):
    def name() -> str:
        identities = Identities()
        identities.needs_inputs = False
        return identities.run(run()).name

    add_source("methods", method)
    first = name()
    sources.forget_files()
    add_source("methods", write(tmp_path / "other/mean.py", METHOD))
    assert name() == first
    sources.forget_files()
    add_source("methods", write(tmp_path / "edited/mean.py", METHOD + "# edited\n"))
    assert name() == first
    sources.forget_files()
    add_source("methods", write(tmp_path / "again/mean.py", METHOD + "EDITED = True\n"))
    assert name() != first


def test_built_in_methods_and_tasks_have_no_source():
    values = parse(RunConfig, run_values(), "test").model_dump(mode="json")
    assert "source" not in values["adapter"] and "source" not in values["task"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lora.py", METHOD, "'lora' is the name of a built-in method: rename the file"),
        ("not-a-name.py", METHOD, "'not-a-name' is no name of a method"),
        ("empty.py", "", "empty.py defines no class that derives from Adapter or Method"),
        ("two.py", METHOD + METHOD.replace("MeanAdapter", "Another"), "defines several methods: MeanAdapter, Another"),
        ("wrong.py", "class", "wrong.py is no valid Python"),
    ],
)
def test_errors_of_files(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(LavishError, match=message):
        add_source("methods", write(tmp_path / name, text))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(LavishError, match=r"there is no file .*absent.py"):
        add_source("methods", tmp_path / "absent.py")


def test_two_files_of_one_name(method: Path, tmp_path: Path):
    add_source("methods", method)
    with pytest.raises(LavishError, match="is another method of the name 'mean'"):
        add_source("methods", write(tmp_path / "other/mean.py", METHOD + "# edited\n"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: int = 4", "width: list[int] = 4", r"option 'width' has the type list\[int\]"),
        ("width: int = 4", "width: int = len('four')", r"option 'width' has the default len\('four'\)"),
        ("width: int = 4", "width=4", "option 'width' needs a type and a default"),
    ],
)
def test_options_that_cannot_be_read(tmp_path: Path, old: str, new: str, message: str):
    add_source("methods", write(tmp_path / "mean.py", METHOD.replace(old, new)))
    with pytest.raises(LavishError, match=message):
        run()


def test_a_file_that_cannot_be_imported(tmp_path: Path):
    add_source("methods", write(tmp_path / "mean.py", "import no_such_module\n" + METHOD))
    with pytest.raises(LavishError, match=r"mean.py: the file could not be imported: ModuleNotFoundError"):
        adapter_class("mean")


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    points = "[lavish.methods]\nmean = lab_mean:MeanAdapter\n[lavish.tasks]\nlabels = lab_labels\n"
    install(tmp_path, points, lab_mean=METHOD, lab_labels=TASK)
    monkeypatch.syspath_prepend(tmp_path)
    assert "mean" in sources.available("methods") and "labels" in sources.available("tasks")
    config = run(task={"name": "labels"})
    assert "lab_mean" not in sys.modules
    assert config.adapter.source is not None and config.adapter.source.path == tmp_path / "lab_mean.py"
    assert adapter_class("mean").__module__ == "lab_mean"
    assert task_class("labels").__module__ == "lab_labels"


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("mean = lab_absent", r"'mean = lab_absent' \(lavish.methods\) of the distribution other-lab is broken"),
        ("lora = lab_mean", r"'lora = lab_mean' .* has the name of a built-in method"),
        ("mean = lab_mean:Other", r"names the class Other, but .*lab_mean.py defines MeanAdapter"),
    ],
)
def test_errors_of_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, message: str):
    install(tmp_path, f"[lavish.methods]\n{point}\n", lab_mean=METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LavishError, match=message):
        run()
