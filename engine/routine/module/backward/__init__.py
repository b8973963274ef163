"""Backward passes that somebody wrote, and what a metagradient needs in their place."""
