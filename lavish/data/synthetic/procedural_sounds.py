"""Procedural sounds: a class is a family of sounds; pitch, rate, timbre and noise vary per instance.

The pretraining families differ from those of the task, so an encoder pretrained on them has never heard a task class.
Sounds of every family are audible in every half second, so that any part of a sound can be recognised.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_NOISE_DB = (-35.0, -20.0)  # relative to the sound


def synthesise(rng: np.random.Generator, family: str, sample_rate: int, seconds: float) -> np.ndarray:
    """Return an instance of a family: float32 (round(seconds * sample_rate),), at an arbitrary level."""
    voice = _Voice(rng, sample_rate, round(seconds * sample_rate))
    noise_level = 10 ** (rng.uniform(*_NOISE_DB) / 20)
    sound = (TASK_FAMILIES | PRETRAINING_FAMILIES)[family](voice)
    noise = voice.details.standard_normal(len(sound), dtype=np.float32)
    return (sound + noise_level * np.sqrt(np.mean(np.square(sound))) * noise).astype(np.float32)


def _sine(cycles: np.ndarray) -> np.ndarray:
    # Whole cycles are removed first, because large values in single precision would lose the phase.
    return np.sin((2 * np.pi) * (cycles % 1).astype(np.float32))


class _Voice:
    """One instance of a sound: its random generators, its time axis in seconds, building blocks, and the families."""

    def __init__(self, rng: np.random.Generator, sample_rate: int, samples: int) -> None:
        self.rng = rng
        # For random values per strike or sample. If they came from `rng`, the pitch of an instance would depend on the
        # length of the sound.
        self.details = rng.spawn(1)[0]
        self.sample_rate = sample_rate
        self.times = np.arange(samples) / sample_rate

    # Building blocks.

    def pitch(self, low: float, high: float) -> float:
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def slow(self, low: float, high: float) -> np.ndarray:
        """Return a sine wave between -1 and 1 with a frequency between `low` and `high` Hz."""
        return _sine(self.times * self.rng.uniform(low, high) + self.rng.uniform())

    def harmonics(self, cycles: np.ndarray, pitch: float) -> np.ndarray:
        """Return a tone of up to four partials; `cycles` is the phase of the fundamental, `pitch` its maximum in Hz."""
        slope = self.rng.uniform(0.6, 2.0)
        tone = np.zeros(len(self.times), np.float32)
        for number in range(1, 5):
            if number * pitch < 0.4 * self.sample_rate:
                tone += np.float32(number**-slope) * _sine(number * cycles)
        return tone

    def strikes(self, rate: float, jitter: float) -> tuple[np.ndarray, np.ndarray]:
        """Return for each time the seconds since the last strike, of `rate` per second, and its index."""
        count = int(len(self.times) / self.sample_rate * rate) + 3
        offsets = jitter * self.details.uniform(-0.5, 0.5, size=count) - self.rng.uniform(0.6, 0.9)
        beats = (np.arange(count) + offsets) / rate
        number = np.maximum(np.searchsorted(beats, self.times, side="right") - 1, 0)
        return np.maximum(self.times - beats[number], 0), number

    def noise(self, centre: float, octaves: float) -> np.ndarray:
        """Return band noise with unit variance; `octaves` is the standard deviation of its spectrum around `centre`."""
        length = 1 << max(8, (len(self.times) - 1).bit_length())
        spectrum = np.fft.rfft(self.details.standard_normal(length, dtype=np.float32))
        frequencies = np.fft.rfftfreq(length, 1 / self.sample_rate)
        frequencies[0] = frequencies[1]
        spectrum *= np.exp(-0.5 * np.square(np.log2(frequencies / centre) / octaves))
        noise = np.fft.irfft(spectrum, length)[: len(self.times)]
        return (noise / (noise.std() + 1e-12)).astype(np.float32)

    def chirps(self, pitch: float, ratio: float) -> np.ndarray:
        rate = self.rng.uniform(3, 6.5)
        since, _ = self.strikes(rate, 0.15)
        duration = self.rng.uniform(0.55, 0.8) / rate
        share = np.minimum(since / duration, 1)
        cycles = pitch * duration / np.log(ratio) * (ratio**share - 1)
        return np.sin(np.pi * share).astype(np.float32) ** 2 * _sine(cycles)

    # Families of the task.

    def tone(self) -> np.ndarray:
        pitch = self.pitch(220, 900)
        return self.harmonics(self.times * pitch, pitch)

    def vibrato(self) -> np.ndarray:
        pitch, rate, depth = self.pitch(220, 900), self.rng.uniform(4, 8), self.rng.uniform(0.05, 0.1)
        wobble = depth / (2 * np.pi * rate) * _sine(self.times * rate + self.rng.uniform())
        return self.harmonics(pitch * (self.times + wobble), pitch)

    def rising_chirps(self) -> np.ndarray:
        return self.chirps(self.pitch(300, 900), self.rng.uniform(2.0, 3.5))

    def noise_bursts(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(3, 8), 0.3)
        noise = self.noise(self.pitch(900, 3000), 0.9)
        return np.exp(-since / self.rng.uniform(0.03, 0.08)) * noise

    def bells(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(2, 4), 0.3)
        pitch, decay = self.pitch(350, 1000), self.rng.uniform(0.12, 0.4)
        sound = np.zeros_like(self.times)
        for number, ratio in enumerate((1, 2.0, 2.76, 4.1, 5.4)):
            if pitch * ratio < 0.45 * self.sample_rate:
                fade = np.exp(-since * (1 + 0.7 * number) / decay)
                sound += self.rng.uniform(0.3, 1.0) * fade * _sine(since * pitch * ratio * self.rng.uniform(0.98, 1.02))
        return sound

    def clicks(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(10, 22), self.rng.uniform(0.1, 0.8))
        return np.exp(-since / self.rng.uniform(0.002, 0.005)) * _sine(since * self.pitch(1200, 3500))

    def wind(self) -> np.ndarray:
        noise = self.noise(self.pitch(300, 1400), self.rng.uniform(0.4, 0.9))
        return noise * (1 + self.rng.uniform(0.2, 0.6) * self.slow(0.5, 2))

    def siren(self) -> np.ndarray:
        pitch, swing = self.pitch(350, 900), self.rng.uniform(0.35, 0.6)
        frequency = pitch * 2 ** (swing * self.slow(0.8, 1.8))
        return self.harmonics(np.cumsum(frequency, dtype=np.float64) / self.sample_rate, 1.5 * pitch)

    # Families for pretraining.

    def tremolo(self) -> np.ndarray:
        pitch = self.pitch(220, 900)
        return self.harmonics(self.times * pitch, pitch) * (1 + self.rng.uniform(0.7, 1) * self.slow(5, 12))

    def falling_chirps(self) -> np.ndarray:
        return self.chirps(self.pitch(900, 2500), 1 / self.rng.uniform(2.0, 3.5))

    def trill(self) -> np.ndarray:
        pitch = self.pitch(300, 1100)
        high = _sine(self.times * self.rng.uniform(6, 12)) > 0
        frequency = pitch * np.where(high, self.rng.uniform(1.2, 1.5), 1.0)
        return self.harmonics(np.cumsum(frequency) / self.sample_rate, 1.5 * pitch)

    def plucks(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(2.5, 5), 0.2)
        pitch = self.pitch(150, 600)
        return np.exp(-since / self.rng.uniform(0.08, 0.2)) * self.harmonics(since * pitch, pitch)

    def rumble(self) -> np.ndarray:
        noise = self.noise(self.pitch(80, 180), 0.5)
        return noise * (1 + self.rng.uniform(0.3, 0.8) * self.slow(3, 8))

    def hiss(self) -> np.ndarray:
        noise = self.noise(self.rng.uniform(0.25, 0.45) * self.sample_rate, 0.4)
        return noise * (1 + self.rng.uniform(0.3, 0.9) * self.slow(8, 15))

    def beeps(self) -> np.ndarray:
        rate = self.rng.uniform(2.5, 5)
        since, _ = self.strikes(rate, 0.0)
        return (since < self.rng.uniform(0.35, 0.6) / rate) * _sine(self.times * self.pitch(800, 2400))

    def buzz(self) -> np.ndarray:
        cycles = self.times * self.pitch(70, 150) + self.rng.uniform(0.02, 0.1) * self.slow(2, 6)
        return 2 * (cycles % 1) - 1

    def drone(self) -> np.ndarray:
        pitch = self.pitch(100, 220)
        second = self.harmonics(self.times * (pitch + self.rng.uniform(2, 6)), pitch)
        return self.harmonics(self.times * pitch, pitch) + second

    def melody(self) -> np.ndarray:
        since, number = self.strikes(self.rng.uniform(3, 7), 0.2)
        notes = self.pitch(250, 700) * 2 ** (self.details.integers(0, 13, size=number[-1] + 1) / 12)
        return np.exp(-since / 0.3) * self.harmonics(since * notes[number], float(notes.max()))

    def pings(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(2, 4), 0.1)
        return np.exp(-since / self.rng.uniform(0.08, 0.16)) * _sine(since * self.pitch(1500, 3200))

    def rattle(self) -> np.ndarray:
        since, _ = self.strikes(self.rng.uniform(25, 45), 0.3)
        noise = self.noise(self.pitch(1500, 3500), 0.5)
        return np.exp(-since / 0.008) * noise * (1 + 0.7 * self.slow(2, 4))


TASK_FAMILIES: dict[str, Callable[[_Voice], np.ndarray]] = {
    "tone": _Voice.tone,
    "vibrato": _Voice.vibrato,
    "rising chirps": _Voice.rising_chirps,
    "noise bursts": _Voice.noise_bursts,
    "bells": _Voice.bells,
    "clicks": _Voice.clicks,
    "wind": _Voice.wind,
    "siren": _Voice.siren,
}
PRETRAINING_FAMILIES: dict[str, Callable[[_Voice], np.ndarray]] = {
    "tremolo": _Voice.tremolo,
    "falling chirps": _Voice.falling_chirps,
    "trill": _Voice.trill,
    "plucks": _Voice.plucks,
    "rumble": _Voice.rumble,
    "hiss": _Voice.hiss,
    "beeps": _Voice.beeps,
    "buzz": _Voice.buzz,
    "drone": _Voice.drone,
    "melody": _Voice.melody,
    "pings": _Voice.pings,
    "rattle": _Voice.rattle,
}
