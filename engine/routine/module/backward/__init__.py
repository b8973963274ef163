"""Backward passes that a user wrote, and what a metagradient needs in their place."""
