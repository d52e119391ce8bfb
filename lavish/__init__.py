"""A reproducible benchmark and ablation harness for parameter-efficient audio-visual learners."""

__version__ = "0.1.0"
