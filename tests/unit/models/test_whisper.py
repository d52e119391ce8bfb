"""The Whisper-layout encoder: its reference output, its log-mel front end, and the refusal of files that do not fit."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lavish.errors import LavishError
from lavish.models.audio_encoders.build import build
from lavish.models.audio_encoders.whisper import WhisperEncoder, WhisperLogMel, segment_spans

# One window of 0.4 s: 20 tokens.
SMALL = {"dim": 16, "depth": 2, "heads": 2, "mel_bins": 20, "positions": 20}


def small_file(path: Path, prefix: str = "model.encoder.", extra: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Write a made-up file in the published layout and return its tensors."""
    encoder = build("whisper", SMALL, seed=3)
    tensors = {prefix + name: tensor.half() for name, tensor in encoder.state_dict().items()} | (extra or {})
    save_file(tensors, path)
    return tensors


@pytest.fixture(scope="module")
def tiny(shared: Path) -> Path:
    folder = shared / "weights" / "whisper-tiny.en-encoder"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_meets_the_reference_output(tiny: Path) -> None:
    encoder = build("whisper", {}, tiny / "model.safetensors")
    with np.load(tiny / "reference_output.npz") as stored:
        reference = stored["out"]
    log_mels = 0.5 * np.sin(0.01 * np.arange(80 * 3000)).reshape(1, 80, 3000)
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(log_mels.astype(np.float32)))
    assert tokens.shape == (1, 1500, 384)
    np.testing.assert_allclose(tokens[0, ::100, :16].numpy(), reference, rtol=0, atol=1e-3)


def test_silence_and_a_tone_get_different_features(tiny: Path) -> None:
    encoder = build("whisper", {}, tiny / "model.safetensors")
    tone = (8000 * torch.sin(torch.arange(16000) * (2 * math.pi * 440 / 16000))).to(torch.int16)
    with torch.inference_mode():
        features = encoder.encode_clip_batch(torch.cat((torch.zeros_like(tone), tone))[None], 2, 1.0)
    assert torch.cosine_similarity(features[0, 0], features[0, 1], dim=0) < 0.9


def slaney_filters(mel_bins: int) -> np.ndarray:
    """Slaney's mel filters of unit area, from their definition (Auditory Toolbox, 1998)."""
    segment = math.log(6.4) / 27

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * segment))

    edges = to_hertz(np.linspace(0, 15 + math.log(8) / segment, mel_bins + 2))[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.linspace(0, 8000, 201)
    triangles = np.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clip(0)
    return triangles * 2 / (high - low)


def test_log_mels_follow_their_definition() -> None:
    waveform = np.random.default_rng(0).normal(0, 0.1, 3200).astype(np.float32)
    waveform[1600:] = 0
    padded = np.pad(waveform.astype(np.float64), 200, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[start : start + 400] * hann for start in range(0, 3200, 160)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log10(np.maximum(slaney_filters(80) @ power.T, 1e-10))
    expected = (np.maximum(expected, expected.max() - 8) + 4) / 4

    measured = WhisperLogMel(80)(torch.from_numpy(waveform)[None])[0].numpy()
    assert measured.shape == (80, 20)
    np.testing.assert_allclose(measured, expected, atol=1e-4)


def test_log_mels_of_a_batch_are_those_of_each_clip() -> None:
    waveforms = torch.randn(2, 3200, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.5], [0.001]])
    front_end = WhisperLogMel(80)
    alone = torch.cat([front_end(waveforms[:1]), front_end(waveforms[1:])])
    torch.testing.assert_close(front_end(waveforms), alone)


def test_a_tone_is_loudest_in_its_mel_bin() -> None:
    tone = torch.sin(torch.arange(3200) * (2 * math.pi * 1000 / 16000))
    loudest = WhisperLogMel(80)(tone[None])[0, :, 5:15].mean(dim=1).argmax().item()
    assert loudest == slaney_filters(80)[:, 25].argmax()


def test_a_long_clip_is_encoded_window_by_window() -> None:
    encoder = build("whisper", SMALL, seed=1)
    clip = torch.randint(-9000, 9000, (1, 12800), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = encoder.encode_clip_batch(clip, 4, 0.2)
        halves = [encoder.encode_clip_batch(half, 2, 0.2) for half in clip.split(6400, dim=1)]
    torch.testing.assert_close(whole, torch.cat(halves, dim=1))
    assert encoder.example_inputs(4, 0.2).shape == (2, 20, 40)


def test_a_short_clip_is_padded_with_silence() -> None:
    encoder = build("whisper", SMALL, seed=1)
    clip = torch.randint(-9000, 9000, (1, 3200), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    padded = torch.cat((clip, torch.zeros_like(clip)), dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.encode_clip_batch(clip, 1, 0.2), encoder.encode_clip_batch(padded, 1, 0.2))


def test_steps_share_no_token_and_leave_none_out() -> None:
    for segments, seconds in ((10, 1.0), (10, 1.95), (3, 0.33)):
        spans = segment_spans(segments, seconds)
        tokens = [token for span in spans for token in range(span.start, span.stop)]
        assert tokens == list(range(round(segments * seconds * 50)))


def test_shapes_of_the_counted_part() -> None:
    encoder = build("whisper", SMALL)
    log_mels = encoder.example_inputs(1, 0.3)
    assert encoder(log_mels).shape == (1, 20, 16)
    assert build("whisper", {}).example_inputs(10, 1.0).shape == (1, 80, 3000)


def test_is_frozen() -> None:
    encoder = build("whisper", SMALL)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build("whisper", SMALL, seed=seed).state_dict()["conv1.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder.", ""])
def test_reads_a_file_in_the_published_layout(tmp_path: Path, prefix: str) -> None:
    decoder = {prefix.replace("encoder", "decoder") + "layer_norm.weight": torch.ones(3)} if prefix else {}
    tensors = small_file(tmp_path / "w.safetensors", prefix, decoder)
    encoder = build("whisper", SMALL, tmp_path / "w.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[prefix + name].float())


def test_layout_has_the_published_names(tiny: Path) -> None:
    names = {name.removeprefix("model.encoder.") for name in load_file(tiny / "model.safetensors")}
    assert names == set(WhisperEncoder().state_dict())


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = small_file(tmp_path / "w.safetensors")
    del tensors["model.encoder.layers.1.fc2.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(
        LavishError, match=r"w\.safetensors.*1 not in the file \('model\.encoder\.layers\.1\.fc2\.bias'\)"
    ):
        build("whisper", SMALL, tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["model.encoder.layers.2.fc1.bias", "classifier.weight"])
def test_unexpected_tensor_is_named(tmp_path: Path, name: str) -> None:
    small_file(tmp_path / "w.safetensors", extra={name: torch.zeros(1)})
    with pytest.raises(LavishError, match=rf"w\.safetensors.*(only in the file \('{name}'|'{name}' is unexpected)"):
        build("whisper", SMALL, tmp_path / "w.safetensors")


def test_ill_shaped_tensor_is_named(tmp_path: Path) -> None:
    small_file(tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match=r"'model\.encoder\.conv1\.weight'\), the first \(16, 20, 3\).*\(16, 40, 3\)"):
        build("whisper", SMALL | {"mel_bins": 40}, tmp_path / "w.safetensors")


def test_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    tensors = small_file(tmp_path / "w.safetensors")
    tensors["model.encoder.conv2.bias"][3] = math.nan
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match=r"'model\.encoder\.conv2\.bias' does not hold finite"):
        build("whisper", SMALL, tmp_path / "w.safetensors")


def test_other_models_weights_are_refused(tmp_path: Path) -> None:
    save_file({"blocks.0.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(LavishError, match="not a file of a Whisper encoder"):
        build("whisper", SMALL, tmp_path / "w.safetensors")


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, save: object) -> None:
    save(Trap(tmp_path / "sprung"), tmp_path / "pytorch_model.bin")  # type: ignore[operator]
    with pytest.raises(LavishError, match=r"pytorch_model\.bin.*pickle"):
        build("whisper", SMALL, tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "sprung").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LavishError, match=r"absent\.safetensors"):
        build("whisper", SMALL, tmp_path / "absent.safetensors")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(LavishError, match="multiple of `heads`"):
        build("whisper", SMALL | {"heads": 3})


def test_misspelt_key_names_the_nearest() -> None:
    with pytest.raises(LavishError, match=r"no option 'dept' \(did you mean 'depth'\?\)"):
        build("whisper", {"dept": 2})
    with pytest.raises(LavishError, match=r"unknown audio encoder 'wisper' \(did you mean 'whisper'\?\)"):
        build("wisper", {})
