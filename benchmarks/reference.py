"""Copy a table and its figures to results/reference/, with the machine, the versions and the time they came from.

    python benchmarks/reference.py ablation        # or: make reference

Reads results/ and Snakemake's log of the call that made the table; types no number by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import pandas
import yaml

RESULTS, OUT, LOGS = Path("results"), Path("results/reference"), Path(".snakemake/log")


def main() -> None:
    """Copy the files and describe where they came from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="name of a file of config/tables/")
    name = parser.parse_args().table
    options = yaml.safe_load(Path(f"config/tables/{name}.yaml").read_text(encoding="utf-8"))
    OUT.mkdir(parents=True, exist_ok=True)
    files = [RESULTS / f"table_{name}.{suffix}" for suffix in ("md", "csv")]
    files += [RESULTS / "figures" / f"{figure}.svg" for figure in options.get("figures", {})]
    for file in files:
        if file.exists():
            shutil.copyfile(file, OUT / file.name)
    (OUT / f"table_{name}.origin.md").write_text(origin(name), encoding="utf-8")


def origin(name: str) -> str:
    """Return a page of facts about the runs behind a table."""
    folders = {
        run for runs in pandas.read_csv(RESULTS / f"table_{name}.csv")["runs"].dropna() for run in runs.split(";")
    }
    records = [json.loads((Path(folder) / "record.json").read_text(encoding="utf-8")) for folder in sorted(folders)]
    first = records[0]
    seconds = [record["job_seconds"] for record in records]
    lines = {
        "made": max(record["finished"] for record in records),
        "trainings": f"{len(records)}, {min(seconds):.0f} to {max(seconds):.0f} s each, median "
        f"{sorted(seconds)[len(seconds) // 2]:.0f} s",
        "last call": f"{elapsed(name)}; what earlier calls had made was not made again",
        "device": ", ".join(sorted({record["device"] for record in records})),
        "processor": first["machine"]["processor"],
        "platform": first["machine"]["platform"],
        "commit": ", ".join(
            sorted(
                {
                    str((r["git"] or {}).get("commit")) + " (dirty)" * bool((r["git"] or {}).get("dirty"))
                    for r in records
                }
            )
        ),
        "recipe version": first["recipe_version"],
        "versions": ", ".join(f"{package} {version}" for package, version in first["versions"].items()),
    }
    return (
        "\n".join([f"# Where `table_{name}` came from", "", *(f"- {key}: {value}" for key, value in lines.items())])
        + "\n"
    )


def elapsed(name: str) -> str:
    """Return the time that Snakemake's log states for the last call that wrote the table."""
    for log in sorted(LOGS.glob("*.log"), reverse=True):
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"Elapsed time: ([\d:]+)", text)
        if found and f"table_{name}.md" in text:
            return found[1]
    return "not known"


if __name__ == "__main__":
    main()
