"""Pretraining of the small frozen backbones of the embedded default."""
