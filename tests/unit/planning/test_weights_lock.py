"""The lock file of weights from the model hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from lavish.config.schema import BackboneConfig, HubWeights
from lavish.errors import LavishError
from lavish.io.hub import HubFile, HubUnreachable
from lavish.planning import weights_lock
from lavish.planning.experiments import task_defaults
from lavish.planning.identities import Identities, without_places
from lavish.planning.weights_lock import LOCK, WeightsLock
from tests.hub import Hub, serve

ROOT = Path(__file__).parents[3]
MODEL = "vit_tiny_patch16_224.test"
NAME = f"timm/{MODEL}/model.safetensors@main"
OLDER, NEWER = save({"weight": torch.zeros(2)}), save({"weight": torch.ones(2)})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(OLDER)) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path


def locked(folder: Path) -> dict[str, dict[str, str]]:
    return yaml.safe_load((folder / LOCK).read_text())


def test_fetching_pins_what_the_hub_has_and_later_calls_fetch_the_same(hub: Hub, folder: Path) -> None:
    fetch = ["weights", "fetch", "--model", MODEL, "--out", "w.safetensors"]
    done = hub.lavish(folder, *fetch)
    assert done.returncode == 0, done.stderr
    older = {"revision": hub.revision, "sha256": hub.sha256}
    assert locked(folder) == {NAME: older}

    hub.commit(NEWER)
    (folder / "w.safetensors").unlink()
    done = hub.lavish(folder, *fetch, "--frozen")
    assert done.returncode == 0, done.stderr  # from the cache: this hub forgets its former commits
    assert (folder / "w.safetensors").read_bytes() == OLDER
    assert json.loads((folder / "w.json").read_text())["revision"] == older["revision"]
    assert locked(folder) == {NAME: older}


def test_frozen_weights_without_an_entry_are_refused(hub: Hub, folder: Path) -> None:
    done = hub.lavish(folder, "weights", "fetch", "--model", MODEL, "--frozen", "--out", "w.safetensors")
    assert done.returncode == 1
    assert done.stderr == (
        f"lavish weights fetch: {NAME} is not in config/weights.lock.yaml, and weights are frozen: "
        "run `lavish weights lock`\n"
    )
    assert not hub.requests
    commit = ["--revision", hub.revision, "--sha256", hub.sha256]
    done = hub.lavish(folder, "weights", "fetch", "--model", MODEL, *commit, "--frozen", "--out", "w.safetensors")
    assert done.returncode == 0, done.stderr


def test_weights_lock_writes_all_files_of_a_configuration_and_updates_when_told(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    lock = ["weights", "lock", "--configfile", "config/paper.yaml"]
    done = hub.lavish(tmp_path, *lock)
    assert done.returncode == 0, done.stderr
    older = locked(tmp_path)
    assert "timm/swinv2_large_window12_192.ms_in22k/model.safetensors@main" in older
    assert "openai/whisper-base/model.safetensors@main" in older
    assert all(line.startswith("added ") for line in done.stdout.splitlines())
    assert all(request.startswith("HEAD ") for request in hub.requests), "nothing is downloaded"

    hub.commit(NEWER)
    done = hub.lavish(tmp_path, *lock)
    assert all(line.startswith("kept ") for line in done.stdout.splitlines())
    assert locked(tmp_path) == older
    done = hub.lavish(tmp_path, *lock, "--update")
    assert all(line.startswith("updated ") for line in done.stdout.splitlines())
    assert {entry["sha256"] for entry in locked(tmp_path).values()} == {hub.sha256}


def test_the_sha256_of_a_small_file_is_that_of_its_download(hub: Hub, folder: Path) -> None:
    hub.large = False
    assert hub.lavish(folder, "weights", "fetch", "--model", MODEL, "--out", "w.safetensors").returncode == 0
    assert locked(folder)[NAME]["sha256"] == hub.sha256


def test_the_cache_counts_if_the_hub_is_out_of_reach(hub: Hub, folder: Path) -> None:
    fetch = ["weights", "fetch", "--model", MODEL, "--out", "w.safetensors"]
    assert hub.lavish(folder, *fetch).returncode == 0
    entry = locked(folder)
    # The cache knows the commit by its name only, until something has asked for the branch.
    (folder / "hub_cache/hub" / f"models--timm--{MODEL}/refs").mkdir(exist_ok=True)
    (folder / "hub_cache/hub" / f"models--timm--{MODEL}/refs/main").write_text(hub.revision)
    (folder / LOCK).unlink()
    done = hub.lavish(folder, *fetch, reachable=False)
    assert done.returncode == 0, done.stderr
    assert locked(folder) == entry


class Answers:
    """Stands for the hub within this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: tuple[str, str] | Exception) -> None:
        self.asked: list[str] = []
        self.answer = answer
        monkeypatch.setattr(weights_lock, "resolve", self)

    def __call__(self, file: HubFile) -> tuple[str, str]:
        self.asked.append(str(file))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_hub_that_does_not_answer_is_asked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch, HubUnreachable("out of reach"))
    lock = WeightsLock(folder / LOCK, ask_hub=True)
    for model in ("vit_tiny", "vit_small"):
        with pytest.raises(HubUnreachable):
            lock.pinned(HubWeights(), model)
    assert answers.asked == ["timm/vit_tiny/model.safetensors@main"]


def test_a_checksum_that_contradicts_the_lock_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, ("a" * 40, "b" * 64))
    lock = WeightsLock(folder / LOCK, ask_hub=True)
    with pytest.raises(LavishError, match=rf"weights.sha256 says {'c' * 64}, but .*lock.yaml says {'b' * 64}"):
        lock.pinned(HubWeights(sha256="c" * 64), MODEL)
    assert lock.pinned(HubWeights(sha256="B" * 64), MODEL).revision == "a" * 40


def test_a_dry_run_neither_asks_nor_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch, ("a" * 40, "b" * 64))
    assert WeightsLock(folder / LOCK).pinned(HubWeights(), MODEL) == HubWeights()
    assert not answers.asked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("timm/x@main: {revision: main, sha256: x}", "weights.lock.yaml: timm/x@main:"),
        ("- a", "weights.lock.yaml: there are no keys in it"),
        ("a: [", "weights.lock.yaml: not valid YAML"),
        (f"{NAME}: {{}}\n{NAME}: {{}}", "is there twice"),
    ],
)
def test_a_damaged_lock_is_one_message(folder: Path, content: str, message: str) -> None:
    (folder / LOCK).write_text(content)
    with pytest.raises(LavishError, match=message):
        WeightsLock(folder / LOCK)


def test_the_content_names_a_run_and_the_commit_does_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = task_defaults([ROOT / "config/config.yaml"], "event_localization")
    backbone = BackboneConfig(model="vit_tiny_patch16_224.augreg_in21k", weights=HubWeights())
    runs = []
    for commit, sha256 in (("a", "b"), ("c", "b"), ("c", "d")):
        Answers(monkeypatch, (commit * 40, sha256 * 64))
        lock = WeightsLock(folder / LOCK, ask_hub=True, update=True)
        runs.append(Identities(lock=lock).run(config.model_copy(update={"backbone": backbone})))
    older, moved, newer = runs
    assert older.name == moved.name != newer.name
    assert without_places(older.config) == without_places(moved.config) != without_places(newer.config)
