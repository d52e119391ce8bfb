"""Metrics as functions of numbers and arrays; tasks call them."""
