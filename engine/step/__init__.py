"""One training step, its vector-Jacobian product, and the ways to it."""
