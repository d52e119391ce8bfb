"""Frozen backbones and audio encoders, heads, weights, and the types that pass between them."""
