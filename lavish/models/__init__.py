"""Frozen backbones, audio encoders, heads, weights, and the types that they exchange."""
