"""A prepared split under each condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from lavish.config.conditions import Condition
from lavish.data.decoding.spectrogram import log_mels
from lavish.data.store.batches import SplitReader
from lavish.data.store.conditions import disturb, other_clips
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from tests.stores import CONDITIONS, SPECTROGRAM, contents_of_tasks, write_store

CLIPS, SEGMENTS, SIZE = 12, 2, 16
MEANS = {"visual": np.array([120.0, 110.5, 100.25], np.float32), "audio": -3.7}


def condition(**values: Any) -> Condition:
    return TypeAdapter(Condition).validate_python({"title": "", **values})


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "test", clips=CLIPS)


def under(split: Path, **values: Any) -> SplitStore:
    store = SplitStore(split)
    disturb(store, condition(**values), MEANS)
    return store


def prepared(waveform: np.ndarray) -> np.ndarray:
    """Return the log-mels (segments, bins, frames) that preparation stores for a waveform in the unit of int16."""
    spectrogram: dict[str, Any] = SPECTROGRAM | {"mel_bins": SIZE, "frames": SIZE}
    mels = log_mels(torch.from_numpy(waveform.astype(np.float32)) / 32768, segments=SEGMENTS, **spectrogram)
    return mels.numpy().astype(np.float16)


def test_silence_has_the_log_mels_of_zeros(split: Path) -> None:
    store = under(split, kind="silence")
    expected = prepared(np.zeros(SEGMENTS * 1600))
    assert len(np.unique(expected)) == 1
    np.testing.assert_array_equal(store.log_mels[:], np.broadcast_to(expected, (CLIPS, *expected.shape)))
    assert not store.waveforms[:].any()


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
def test_noise_has_the_ratio_that_is_asked_for(snr_db: float, split: Path) -> None:
    clean, noisy = SplitStore(split).waveforms[:], under(split, kind="noise", snr_db=snr_db, seed=3).waveforms[:]
    noise = noisy - clean
    found = 10 * np.log10(clean.var(axis=1) / noise.var(axis=1))
    np.testing.assert_allclose(found, snr_db, atol=0.3)
    # White: half of the power lies in the upper half of the spectrum.
    power = np.abs(np.fft.rfft(noise)) ** 2
    np.testing.assert_allclose(power[:, power.shape[1] // 2 :].sum() / power.sum(), 0.5, atol=0.02)


def test_noisy_sounds_are_prepared_like_others(split: Path) -> None:
    store = under(split, kind="noise", snr_db=0, seed=3)
    for clip in (0, 7):
        np.testing.assert_array_equal(store.log_mels[clip], prepared(store.waveforms[clip]))


def test_a_silent_clip_stays_silent_in_noise(tmp_path: Path) -> None:
    store = SplitStore(write_store(tmp_path / "test"))
    store.waveforms = np.zeros_like(store.waveforms)
    disturb(store, condition(kind="noise", snr_db=0, seed=0), MEANS)
    assert not store.waveforms[:].any()


def test_a_late_sound_begins_with_its_end(split: Path) -> None:
    clean, late = SplitStore(split).waveforms, under(split, kind="shift", segments=1)
    np.testing.assert_array_equal(late.waveforms[:][:, 1600:], clean[:, :1600])
    np.testing.assert_array_equal(late.waveforms[:][:, :1600], clean[:, 1600:])
    np.testing.assert_array_equal(late.log_mels[4], prepared(late.waveforms[4]))


@pytest.mark.parametrize("segments", [2, 4])
def test_a_shift_that_changes_nothing_is_refused(segments: int, split: Path) -> None:
    with pytest.raises(LavishError, match=r"does not change clips of 2 segment\(s\)"):
        under(split, kind="shift", segments=segments)


def test_blurring_keeps_the_mean_and_takes_the_detail(split: Path) -> None:
    clean, blurred = SplitStore(split).frames[:].astype(float), under(split, kind="blur", sigma=0.2).frames[:]
    assert blurred.dtype == np.uint8
    np.testing.assert_allclose(blurred.mean(axis=(2, 3)), clean.mean(axis=(2, 3)), atol=0.2)  # rounding
    assert (blurred.std(axis=(2, 3)) < 0.3 * clean.std(axis=(2, 3))).all()


def test_blurring_mixes_neither_channels_nor_segments(tmp_path: Path) -> None:
    store = SplitStore(write_store(tmp_path / "test", clips=3))
    frames = np.zeros(store.frames.shape, np.uint8)
    frames[1, 0, 8, 8, 2] = 255
    store.frames = frames
    disturb(store, condition(kind="blur", sigma=0.1), MEANS)
    found = store.frames[:]
    assert found[1, 0, ..., 2].any()
    found[1, 0, ..., 2] = 0
    assert not found.any()


def test_darkening_scales_pixels(split: Path) -> None:
    clean, dark = SplitStore(split).frames[:], under(split, kind="darken", factor=0.25).frames[:]
    np.testing.assert_array_equal(dark, np.rint(clean * 0.25).astype(np.uint8))


@pytest.mark.parametrize("name", ["missing_audio", "missing_visual"])
def test_a_missing_stream_is_zero_after_normalisation(name: str, split: Path) -> None:
    store = under(split, **CONDITIONS[name])
    if name == "missing_audio":
        left = torch.from_numpy(store.log_mels[:]).float() - MEANS["audio"]
        assert not store.waveforms[:].any()
    else:
        left = torch.from_numpy(store.frames[:]) - torch.from_numpy(MEANS["visual"])
    assert left.shape[:2] == (CLIPS, SEGMENTS) and not left.any()


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_other_stream_and_the_targets_stay(name: str, split: Path) -> None:
    clean, store, changed = SplitStore(split), under(split, **CONDITIONS[name]), condition(**CONDITIONS[name]).stream
    kept = "frames" if changed == "audio" else "log_mels"
    np.testing.assert_array_equal(getattr(store, kept)[:], getattr(clean, kept)[:])
    disturbed = "log_mels" if changed == "audio" else "frames"
    assert not np.array_equal(getattr(store, disturbed)[:], getattr(clean, disturbed)[:])
    assert getattr(store, disturbed).shape == getattr(clean, disturbed).shape
    np.testing.assert_array_equal(store.targets["labels"], clean.targets["labels"])


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_clip_is_disturbed_alike_in_every_batch(name: str, split: Path) -> None:
    def read(size: int) -> dict[str, np.ndarray]:
        reader = SplitReader(split, ("visual", "audio"))
        disturb(reader.store, condition(**CONDITIONS[name]), MEANS)
        order = np.random.default_rng(size).permutation(CLIPS)
        groups = [order[start : start + size] for start in range(0, CLIPS, size)]
        batches = [*reader.batches(groups, torch.device("cpu"))]
        back = np.argsort(order)
        return {
            key: torch.cat([batch.tensors()[key] for batch in batches]).numpy()[back] for key in ("frames", "log_mels")
        }

    for first, second in zip(read(5).values(), read(1).values(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_what_is_drawn_depends_on_the_seed(split: Path) -> None:
    for kind in ({"kind": "noise", "snr_db": 0}, {"kind": "swap", "stream": "audio"}):
        first, again, other = (under(split, **kind, seed=seed).waveforms[:] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def classes_of(store: SplitStore) -> np.ndarray:
    return store.targets["labels"].min(axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_swapped_stream_is_of_another_class(seed: int, split: Path) -> None:
    store = SplitStore(split)
    partners = other_clips(store, seed)
    assert (classes_of(store)[partners] != classes_of(store)).all()
    swapped = under(split, kind="swap", stream="audio", seed=seed)
    np.testing.assert_array_equal(swapped.log_mels[:], store.log_mels[partners])
    np.testing.assert_array_equal(swapped.waveforms[:], store.waveforms[partners])
    pictures = under(split, kind="swap", stream="visual", seed=seed)
    np.testing.assert_array_equal(pictures.frames[[3, 0]], store.frames[partners[[3, 0]]])


def test_partners_vary(tmp_path: Path) -> None:
    store = SplitStore(write_store(tmp_path / "test", clips=60))
    assert len(np.unique(other_clips(store, 0))) > 25


def test_clips_with_categories_are_swapped_with_other_categories(tmp_path: Path) -> None:
    content = contents_of_tasks(CLIPS, np.random.default_rng(0))["segmentation"]
    categories = ["dog", "cat"] * (CLIPS // 2)
    split = write_store(tmp_path / "test", clips=CLIPS, categories=categories, **content, targets={})
    partners = other_clips(SplitStore(split), 0)
    assert all(categories[one] != categories[clip] for clip, one in enumerate(partners))


def test_clips_without_classes_are_swapped_with_any_other(tmp_path: Path) -> None:
    content = contents_of_tasks(CLIPS, np.random.default_rng(0))["segmentation"]
    partners = other_clips(SplitStore(write_store(tmp_path / "test", clips=CLIPS, **content, targets={})), 0)
    assert (partners != np.arange(CLIPS)).all()


def test_questions_are_swapped_with_clips_that_answer_none_of_them_alike(tmp_path: Path) -> None:
    # Clips 0 and 1 give the same answer to question 1; clip 2 gives another one.
    targets = {"questions": np.array([[1], [2], [1], [1]]), "answers": np.array([0, 0, 0, 1])}
    units = np.array([0, 0, 1, 2])
    store = SplitStore(write_store(tmp_path / "test", clips=3, units=units, targets=targets))
    for seed in range(8):
        partners = other_clips(store, seed)
        assert partners[:2].tolist() == [2, 2]
        assert partners[2] in (0, 1)


@pytest.mark.parametrize("clips", [1, 3])
def test_a_split_of_one_class_cannot_be_swapped(clips: int, tmp_path: Path) -> None:
    targets = {"labels": np.zeros(clips, np.int64)}
    store = SplitStore(write_store(tmp_path / "test", clips=clips, targets=targets))
    with pytest.raises(LavishError, match="no clip of another class than '-clip000'"):
        other_clips(store, 0)


def test_a_store_without_the_categories_of_its_layout_is_named(tmp_path: Path) -> None:
    store = SplitStore(write_store(tmp_path / "test", targets={}))
    store.manifest["format"] = "avsbench_s4"
    with pytest.raises(LavishError, match="without the categories of clips: delete the folder"):
        other_clips(store, 0)


def test_frames_that_are_stored_as_pictures_are_disturbed(tmp_path: Path) -> None:
    split = write_store(tmp_path / "test", clips=4, pictures="webp")
    clean, dark = SplitStore(split).frames[:], under(split, kind="darken", factor=0.5).frames[np.array([2, 1])]
    np.testing.assert_array_equal(dark, np.rint(clean[[2, 1]] * 0.5).astype(np.uint8))
