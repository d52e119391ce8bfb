"""Search spaces: what methods declare, and the search of a run that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.config.options import add_source
from lavish.config.schema import ChoicesConfig, RangeConfig, RunConfig, TuningConfig
from lavish.config.sources import available, built_in
from lavish.errors import LavishError
from lavish.planning.experiments import load, task_defaults
from lavish.planning.identities import Identities
from lavish.planning.search_spaces import declared_space, with_search

CONFIG = Path("config/config.yaml")
METHOD = """
from lavish.methods.base import Adapter


class Tried(Adapter):
    budget_option = "width"
    search_space = {space}

    def __init__(self, site, *, width: int = 8, scale: float = 1.0) -> None:
        super().__init__()

    def forward(self, tokens, other):
        return tokens
"""


@pytest.fixture
def defaults() -> RunConfig:
    return task_defaults([CONFIG], "event_localization")


def searched(config: RunConfig, **tuning: object) -> RunConfig:
    fixed = tuning.pop("fixed", ())
    budget = TuningConfig.model_validate(tuning)
    return with_search(config, budget, rates=config, reported=[0, 1000], fixed=fixed, where="row")


def with_method(config: RunConfig, method: str) -> RunConfig:
    return RunConfig.model_validate({**config.model_dump(mode="json"), "adapter": {"method": method}, "fusion": {}})


def declaring(space: str, folder: Path) -> str:
    """Return the name of a method from outside with a search space; names of files in use are not used again."""
    file = folder / f"tried_{len(available('methods'))}.py"
    file.write_text(METHOD.format(space=space))
    return add_source("methods", file)


@pytest.mark.parametrize("method", built_in("methods"))
def test_every_method_declares_a_space_that_can_be_searched(method: str, defaults: RunConfig) -> None:
    search = searched(with_method(defaults, method)).tuning
    assert search is not None
    assert "training.lr_adapter" in search.space


def test_rates_are_multiples_of_those_of_the_task_and_sizes_are_searched_on_request(defaults: RunConfig) -> None:
    config = with_method(defaults, "lora")
    search = searched(config, seeds=2).tuning
    assert search is not None
    rate = defaults.training.lr_adapter
    assert search.space["training.lr_adapter"] == RangeConfig(scale="log", low=rate / 16, high=8 * rate)
    assert search.space["adapter.options.alpha"] == ChoicesConfig(choices=[4.0, 8.0, 16.0, 32.0])
    assert "adapter.options.rank" not in search.space
    assert search.seeds == [1001, 1002]  # 1000 is one of the table
    larger = searched(config, size=True).tuning
    assert larger is not None and "adapter.options.rank" in larger.space
    matched = searched(config, size=True, fixed={"rank", "alpha"}).tuning
    assert matched is not None and [*matched.space] == ["training.lr_adapter"]


def test_without_a_method_the_rate_of_the_head_is_searched(defaults: RunConfig) -> None:
    search = searched(with_method(defaults, "none")).tuning
    assert search is not None and [*search.space] == ["training.lr_head"]


def test_chosen_values_replace_those_of_the_run_and_nothing_else(defaults: RunConfig) -> None:
    config = with_method(defaults, "lora")
    changed = config.with_values({"training.lr_adapter": 0.5, "adapter.options.alpha": 4.0})
    assert (changed.training.lr_adapter, changed.adapter.options["alpha"]) == (0.5, 4.0)
    assert (
        changed.with_values({"training.lr_adapter": config.training.lr_adapter}).model_copy(
            update={"adapter": config.adapter}
        )
        == config
    )


def test_more_trials_are_another_run_of_the_same_search(defaults: RunConfig) -> None:
    names = Identities()
    names.needs_inputs = False
    six, twelve, sizes = (names.run(searched(with_method(defaults, "lora"), **one)) for one in (
        {"trials": 6}, {"trials": 12, "seeds": 2}, {"trials": 6, "size": True},
    ))  # fmt: skip
    plain = names.run(with_method(defaults, "lora"))
    assert len({six.name, twelve.name, sizes.name, plain.name}) == 4
    assert six.search == twelve.search != sizes.search
    assert plain.search is None
    assert names.searches.keys() == {six.search, sizes.search}


def test_what_a_search_replaces_is_no_part_of_the_name_of_a_run(defaults: RunConfig) -> None:
    names = Identities()
    names.needs_inputs = False
    planned = names.run(searched(with_method(defaults, "lora")))
    # As records have it, from which `lavish submit-check` computes the name again.
    chosen = {"training.lr_adapter": 0.0123, "adapter.options.alpha": 32.0}
    recorded = names.run(planned.config.with_values(chosen))
    assert (recorded.name, recorded.search) == (planned.name, planned.search)
    assert names.run(planned.config.with_values({"training.epochs": 7})).name != planned.name


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ('{"depth": ("log", 1, 2)}', "'depth' is no option and no learning rate"),
        ('{"scale": ("log", 0, 2)}', "'scale' is ('log', 0, 2): write"),
        ('{"scale": ("linear", 2, 1)}', "'scale' is ('linear', 2, 1): write"),
        ('{"width": ("choices", 1)}', "'width' is ('choices', 1): write"),
        ('{"width": ("choices", 1, "wide")}', "option 'width' of method"),
        ('{"lr_adapter": ("linear", 1, 2)}', "write ('log', lowest, highest) for a rate"),
        ('["scale"]', "write a dictionary"),
    ],
)
def test_a_space_that_cannot_be_searched_is_an_error(space: str, said: str, tmp_path: Path) -> None:
    name = declaring(space, tmp_path)
    with pytest.raises(LavishError, match="tried_") as error:
        declared_space(name)
    assert said in str(error.value)


def test_the_learning_rate_is_searched_in_any_case(defaults: RunConfig, tmp_path: Path) -> None:
    search = searched(with_method(defaults, declaring('{"width": ("choices", 4, 8)}', tmp_path))).tuning
    assert search is not None and [*search.space] == ["training.lr_adapter"]


def test_selection_on_the_test_split_is_an_error(defaults: RunConfig) -> None:
    with pytest.raises(LavishError, match="row: select_on is 'test'"):
        searched(defaults.model_copy(update={"select_on": "test"}))


def test_rows_without_tuning_keep_the_rates_that_they_are_written_with() -> None:
    fixed = load([CONFIG], {"tuning": "none", "tables": ["peft"]}).table("peft")
    rates = {run.config.training.lr_adapter for run in fixed.runs}
    assert len(rates) > 2
    assert not any(run.search for run in fixed.runs)
    tuned = load([CONFIG], {"tables": ["peft"]}).table("peft")
    assert all(run.search for run in tuned.runs)
    for run in tuned.runs:
        assert run.config.tuning is not None
        assert not {*run.config.tuning.seeds} & {*tuned.spec["seeds"]}
        assert run.config.tuning.trials >= 6


def test_sizes_that_are_matched_are_not_searched() -> None:
    table = load([CONFIG], {"tuning": {"size": True}, "tables": ["peft"]}).table("peft")
    sizes = {row["variant"]: row["runs"]["event_localization"]["config"]["tuning"]["space"] for section in
             table.spec["sections"] for row in section["rows"]}  # fmt: skip
    assert "adapter.options.rank" in sizes["lora"]
    assert "adapter.options.rank" not in sizes["lora_matched"]
    assert "adapter.options.reduction" not in sizes["lavish"]
