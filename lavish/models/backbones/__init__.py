"""Frozen image transformers with a common interface."""
