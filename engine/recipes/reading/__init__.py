"""Reading of what a user has written as settings: YAML, assignments, and error messages."""
