"""A summary of the rounds."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter) -> None:
    """Print how many rounds each fault had, and what they came to."""
    reports = [one for key in ("passed", "failed") for one in terminalreporter.getreports(key) if one.when == "call"]
    rounds = [properties for one in reports if "outcome" in (properties := dict(one.user_properties))]
    if not rounds:
        return
    outcomes = Counter(one["outcome"] for one in rounds)
    terminalreporter.section("faults")
    terminalreporter.line(
        f"{len(rounds)} rounds: {outcomes['equal']} equal, {outcomes['other results']} with other results, "
        f"{outcomes['lost']} lost, {outcomes['hung']} hung"
    )
    for what in ("fault", "stage", "came to"):
        counted = Counter(one[what] for one in rounds if what in one)
        terminalreporter.line(f"{what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counted.items())))
