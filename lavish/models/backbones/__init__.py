"""Frozen image transformers behind one interface."""
