"""A summary of the examples."""

from __future__ import annotations


def pytest_terminal_summary(terminalreporter) -> None:
    """Print how many examples each reader had, and how long they took."""
    reports = [one for key in ("passed", "failed") for one in terminalreporter.getreports(key) if one.when == "call"]
    counted = [properties for one in reports if "examples" in (properties := dict(one.user_properties))]
    if counted:
        terminalreporter.section("fuzzing")
    for one in counted:
        terminalreporter.line(f"{one['reader']}: {one['examples']} examples in {one['seconds']:.1f} s")
