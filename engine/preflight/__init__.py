"""Preflight: may this run's metagradient be trusted? Tried on short twins, in seconds."""
