"""A training run as a pure function of (state, z, step)."""
