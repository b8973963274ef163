"""Which examples caused an answer."""
