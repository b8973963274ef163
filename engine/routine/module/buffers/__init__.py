"""Buffers of a module: those that a run carries in its state, and those that must not change."""
