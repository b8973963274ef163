"""The witness: a step of the user's own module, compared with a step of the engine."""
