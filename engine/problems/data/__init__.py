"""Examples of a problem: read within bounds, cut into splits, and fingerprinted."""
