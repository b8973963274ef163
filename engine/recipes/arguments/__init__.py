"""Arguments of the problems that ship, as groups of settings."""
