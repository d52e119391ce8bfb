"""A validated table before its runs are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lavish.config.conditions import NamedCondition
from lavish.config.measures import Measure
from lavish.config.options import budget_option
from lavish.config.schema import RunConfig, WorkflowConfig
from lavish.planning.parameter_budgets import Match, Request, request, with_size
from lavish.planning.tables.captions import Matched
from lavish.planning.tables.rows import Variant
from lavish.planning.tables.schema import TableConfig


@dataclass(frozen=True)
class Draft:
    """A table with its rows resolved, except for the sizes of matched rows."""

    name: str
    file: Path
    table: TableConfig
    config: WorkflowConfig
    where: str
    """Name of the table's configuration for messages."""
    variants: dict[str, Variant]
    measures: dict[str, dict[str, Measure]]
    """The metric of each task, first, and its further measures."""
    conditions: dict[str, NamedCondition] = field(default_factory=dict)
    """Those of the columns and figures."""
    matched: tuple[Matched, ...] = ()
    """The results for matched rows."""

    def requests(self) -> dict[str, Request]:
        """Return the requested sizes, by the names of their runs in messages."""
        return {where: request(config, target) for where, _, _, config, target in self._matches()}

    def with_sizes(self, found: Mapping[str, Match]) -> Draft:
        """Return the draft with the sizes filled in."""
        variants, matched = dict(self.variants), []
        for where, variant, task, config, _ in self._matches():
            resolved, match = variants[variant], found[where]
            sized = with_size(config, match.size)
            variants[variant] = replace(resolved, configs={**resolved.configs, task: sized})
            assert resolved.matches is not None
            size = f"{budget_option(config.adapter.method)} {match.size}"
            matched.append(Matched(resolved.label, self.variants[resolved.matches].label, size, match))
        return replace(self, variants=variants, matched=tuple(matched))

    def _matches(self) -> Iterator[tuple[str, str, str, RunConfig, RunConfig]]:
        """Yield the name in messages, variant, task, configuration and target configuration of each matched run."""
        for variant, resolved in self.variants.items():
            if resolved.matches is not None:
                for task, config in resolved.configs.items():
                    target = self.variants[resolved.matches].configs[task]
                    yield f"{self.file}: row '{variant}', task '{task}'", variant, task, config, target
