"""Clips a second that the prepared store delivers, against those that a training step takes.

python benchmarks/loading.py results/data/prepared/<name>/train results/runs/<run>/seed0/record.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from lavish.data.store.batches import SplitReader


def main() -> None:
    """Print clips per second of the loader and of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="prepared split")
    parser.add_argument("record", type=Path, help="record.json of a training on it")
    options = parser.parse_args()
    record = json.loads(options.record.read_text(encoding="utf-8"))
    batch = record["config"]["training"]["batch_size"]
    reader = SplitReader(options.split, ("visual", "audio"))
    groups = reader.shuffled(batch, np.random.default_rng(0))
    passes = 5
    started = time.perf_counter()
    clips = sum(len(b) for _ in range(passes) for b in reader.batches(groups, torch.device("cpu")))
    loaded = clips / (time.perf_counter() - started)
    trained = batch / record["step_seconds_median"]
    print(f"loader {loaded:.0f} clips/s, training {trained:.0f} clips/s: {loaded / trained:.0f} x")


if __name__ == "__main__":
    main()
