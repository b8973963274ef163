"""How what somebody has written becomes settings: YAML, assignments, and refusals in words."""
