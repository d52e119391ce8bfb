"""Whatever a file holds: a reader answers with what it read or with a LavishError, in limited time and memory.

`make test-fuzz EXAMPLES=10000 SEED=0` tries many contents; the same number of examples and seed give the same ones.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("memory is limited on Linux", allow_module_level=True)

import readers
from children import Child
from hypothesis import HealthCheck, given, seed, settings
from mutations import mutated

EXAMPLES = int(os.environ.get("EXAMPLES", "100"))
SEED = int(os.environ.get("SEED", "0"))


@pytest.mark.parametrize("name", readers.READERS)
def test_only_a_lavish_error_comes_out(name: str, tmp_path: Path, monkeypatch, record_property) -> None:
    fuzzed = readers.READERS[name]
    files = {file: (tmp_path / file).read_bytes() for file in fuzzed.write(tmp_path)}
    with monkeypatch.context() as unchanged:
        unchanged.setattr(readers, "refused", lambda function, *arguments, **named: function(*arguments, **named))
        unchanged.chdir(tmp_path)
        for file in files:
            fuzzed.read(tmp_path, file)  # nothing is wrong with the valid ones
    count, start = 0, time.monotonic()
    with Child(fuzzed.read, tmp_path) as child:

        @seed(SEED)
        @settings(
            max_examples=max(1, round(EXAMPLES * fuzzed.share)),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(mutated(files))
        def examine(change: tuple[str, bytes]) -> None:
            nonlocal count
            count += 1
            child.run(*change)

        try:
            examine()
        finally:
            record_property("reader", name)
            record_property("examples", count)
            record_property("seconds", time.monotonic() - start)
