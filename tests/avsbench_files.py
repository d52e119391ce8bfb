"""Writes small folders in the layouts of AVSBench."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16
S4_ROWS = ["-a_1,0,dog_barking,train", "b,5,dog_barking,train", "c,2,helicopter,val", "d,0,helicopter,test"]
MS3_ROWS = ["-a_1,train", "b_0,train", "c,val", "d,test"]


def write_picture(path: Path, value: int = 90, size: int = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


def write_mask(path: Path, columns: int, size: int = SIZE) -> None:
    """An object of the leftmost columns, stored as the published masks are: 255 on black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size, size), np.uint8)
    mask[:, :columns] = 255
    Image.fromarray(mask).save(path)


def write_sound(path: Path, seconds: float = 5.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 9000 * np.sin(np.arange(round(16000 * seconds)) / 6)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())


def write_s4(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "s4_meta_data.csv").write_text("\n".join(["name,start,category,split", *S4_ROWS]) + "\n")
    for video, _, category, split in (row.split(",") for row in S4_ROWS):
        place = Path(split, category)
        write_sound(root / "s4_data/audio_wav" / place / f"{video}.wav")
        for number in range(1, 6):
            write_picture(root / "s4_data/visual_frames" / place / video / f"{video}_{number}.png", 40 * number)
            if split != "train" or number == 1:
                write_mask(root / "s4_data/gt_masks" / place / video / f"{video}_{number}.png", number)
    return root


def write_ms3(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "ms3_meta_data.csv").write_text("\n".join(["video_id,split", *MS3_ROWS]) + "\n")
    for video, split in (row.split(",") for row in MS3_ROWS):
        write_sound(root / "ms3_data/audio_wav" / split / f"{video}.wav")
        for number in range(1, 6):
            write_picture(root / "ms3_data/visual_frames" / video / f"{video}.mp4_{number}.png")
            write_mask(root / "ms3_data/gt_masks" / split / video / f"{video}_{number}.png", number)
    return root
