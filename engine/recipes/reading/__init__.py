"""How what a user has written becomes settings: YAML, assignments, and refusals in words."""
