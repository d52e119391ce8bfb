"""Weights from disk and from a local stand-in for the model hub, and the files that are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from lavish.cli.main import main
from lavish.config.schema import FileWeights
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.models.backbones.build import build_backbone
from lavish.models.weights import read_weights, take_file, write_weights
from tests.hub import Hub, serve


def small_file(path: Path) -> Path:
    save_file({"weight": torch.arange(4.0)}, path)
    return path


def test_written_weights_have_a_checksum(tmp_path):
    path = tmp_path / "new/w.safetensors"
    write_weights({"weight": torch.ones(2)}, path, {"source": "test"})
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts == {"source": "test", "sha256": sha256_of(path)}
    assert torch.equal(read_weights(path)["weight"], torch.ones(2))


def test_a_pickle_is_refused_without_loading_it(tmp_path):
    path = tmp_path / "w.safetensors"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    for payload in (pickle.dumps(Bomb()), None):
        if payload is None:
            torch.save({"weight": torch.ones(1)}, path)
        else:
            path.write_bytes(payload)
        with pytest.raises(LavishError, match=r"not a safetensors file but a pickle"):
            read_weights(path)
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_missing_files_are_errors(tmp_path):
    path = small_file(tmp_path / "w.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(
        LavishError, match=r"w\.safetensors is not a safetensors file but a part of one, cut off or damaged"
    ):
        read_weights(path)
    with pytest.raises(LavishError, match=r"no weights at .*absent"):
        read_weights(tmp_path / "absent.safetensors")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 113466040\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "a git-lfs pointer, not the file itself: run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html><body>Access denied</body></html>", "a web page, not the file itself"),
        (b"", "empty: fetch it again"),
        (b"no tensors at all", "damaged or another format"),
    ],
)
def test_what_was_saved_instead_of_weights_is_named_with_its_remedy(tmp_path, content, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    for read in (read_weights, lambda path: take_file(FileWeights(path=path), tmp_path / "out.safetensors")):
        with pytest.raises(LavishError, match=rf"w\.safetensors is not a safetensors file but {message}") as caught:
            read(path)
        assert message.startswith("damaged") or "convert" not in str(caught.value)


@pytest.mark.parametrize("length", [4, 40, 80])
def test_a_cut_off_file_is_fetched_again(tmp_path, length):
    path = small_file(tmp_path / "w.safetensors")
    assert path.stat().st_size > length
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(LavishError, match=r"w\.safetensors is not a safetensors file but .*fetch it again"):
        read_weights(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_found_in_every_file_of_weights(capsys, tmp_path, number):
    path = tmp_path / "w.safetensors"
    tensors = timm.create_model("deit_tiny_patch16_224").state_dict()
    tensors["blocks.0.attn.qkv.weight"][0, 0] = number
    save_file(tensors, path)
    message = r"tensor 'blocks\.0\.attn\.qkv\.weight' does not hold finite real numbers \(1 of 110592"
    with pytest.raises(LavishError, match=message):
        build_backbone("deit_tiny_patch16_224", {}, 224, weights=path)
    with pytest.raises(LavishError, match=message):
        take_file(FileWeights(path=path), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert main(["weights", "check", str(path)]) == 1
    assert "does not hold finite real numbers" in capsys.readouterr().err


def test_a_wrong_checksum_is_an_error_with_both_values(tmp_path):
    path = small_file(tmp_path / "w.safetensors")
    out = tmp_path / "out.safetensors"
    take_file(FileWeights(path=path, sha256=sha256_of(path).upper()), out)
    assert sha256_of(out) == sha256_of(path)
    out.unlink()
    with pytest.raises(LavishError, match=rf"sha256 is {sha256_of(path)}, but weights\.sha256 says {'0' * 64}"):
        take_file(FileWeights(path=path, sha256="0" * 64), out)
    assert not out.exists()


@pytest.fixture
def hub(tmp_path):
    with serve(Hub(small_file(tmp_path / "hub.safetensors").read_bytes())) as hub:
        yield hub


def fetch(hub: Hub, folder: Path, *arguments: str, reachable: bool = True) -> subprocess.CompletedProcess[str]:
    return hub.lavish(folder, "weights", "fetch", *arguments, "--out", "out.safetensors", reachable=reachable)


def configured(hub: Hub, **weights: str) -> tuple[str, str]:
    weights = {"source": "hub", "revision": hub.revision, **weights}
    return "--config", json.dumps({"model": "vit_tiny_patch16_224.test", "weights": weights})


def test_fetched_weights_are_checked_and_described(hub, tmp_path):
    done = fetch(hub, tmp_path, *configured(hub, sha256=hub.sha256))
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["sha256"] == hub.sha256
    assert facts["revision"] == hub.revision
    assert facts["repository"] == "timm/vit_tiny_patch16_224.test"


def test_fetched_weights_with_a_wrong_checksum_are_refused(hub, tmp_path):
    done = fetch(hub, tmp_path, *configured(hub, sha256="f" * 64))
    assert done.returncode == 1
    assert "weights.sha256 says " + "f" * 64 in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_an_unreachable_hub_is_one_error_message(hub, tmp_path):
    done = fetch(hub, tmp_path, *configured(hub, sha256=hub.sha256), reachable=False)
    assert done.returncode == 1
    assert "the model hub is out of reach" in done.stderr
    assert "weights: {source: file, path: ...}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_on_the_hub_is_one_error_message(hub, tmp_path):
    done = fetch(hub, tmp_path, *configured(hub, filename="absent.safetensors"))
    assert done.returncode == 1
    assert "could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_fetching_by_model_name(hub, tmp_path):
    arguments = ["--model", "vit_tiny_patch16_224.test", "--revision", hub.revision, "--sha256", hub.sha256]
    done = fetch(hub, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["sha256"] == hub.sha256
    # A pinned file that is complete is not requested again: the hub does not answer, and the cache is empty.
    shutil.rmtree(tmp_path / "hub_cache")
    done = fetch(hub, tmp_path, *arguments, reachable=False)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.safetensors").write_bytes(b"half")
    done = fetch(hub, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.safetensors").read_bytes() == hub.content


def test_revision_is_refused_with_a_configuration(capsys, tmp_path):
    arguments = ["--config", "{}", "--revision", "main", "--out", str(tmp_path / "out.safetensors")]
    assert main(["weights", "fetch", *arguments]) == 1
    assert "--revision goes with --model" in capsys.readouterr().err


def test_check_describes_a_file(capsys, tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights({"weight": torch.ones(2, 3), "bias": torch.ones(1)}, path, {"source": "test"})
    assert main(["weights", "check", str(path), "--sha256", sha256_of(path)]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["format"] == "safetensors"
    assert facts["sha256"] == sha256_of(path)
    assert (facts["tensors"], facts["parameters"], facts["types"], facts["source"]) == ("2", "7", "F32", "test")


def test_check_fails_for_a_wrong_checksum(capsys, tmp_path):
    path = small_file(tmp_path / "w.safetensors")
    assert main(["weights", "check", str(path), "--sha256", "0" * 64]) == 1
    assert f"sha256 is {sha256_of(path)}, but --sha256 says {'0' * 64}" in capsys.readouterr().err
    path.with_suffix(".json").write_text(json.dumps({"sha256": "1" * 64}))
    assert main(["weights", "check", str(path)]) == 1
    assert f"w.json: says sha256 {'1' * 64}, but w.safetensors has" in capsys.readouterr().err


def test_check_and_fetch_refuse_a_pickle_without_loading_it(capsys, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.ones(1)}, path)
    assert main(["weights", "check", str(path)]) == 1
    assert "is not a safetensors file but a pickle" in capsys.readouterr().err
    out = tmp_path / "out.safetensors"
    config = {"model": "vit", "weights": {"source": "file", "path": str(path)}}
    assert main(["weights", "fetch", "--config", json.dumps(config), "--out", str(out)]) == 1
    assert "is not a safetensors file but a pickle" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["w.pth"]


def test_check_compares_a_file_with_a_backbone(capsys, tmp_path):
    path = tmp_path / "deit.safetensors"
    tensors = timm.create_model("deit_tiny_patch16_224").state_dict()
    save_file(tensors, path)
    assert main(["weights", "check", str(path), "--model", "deit_tiny_patch16_224"]) == 0
    assert "fits        deit_tiny_patch16_224" in capsys.readouterr().out
    save_file({key: value for key, value in tensors.items() if key != "cls_token"}, path)
    assert main(["weights", "check", str(path), "--model", "deit_tiny_patch16_224"]) == 1
    assert "cls_token" in capsys.readouterr().err
    assert main(["weights", "check", str(path), "--model", "resnet50"]) == 1
    assert "is no ViT or Swin" in capsys.readouterr().err
