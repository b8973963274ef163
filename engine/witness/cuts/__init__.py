"""Places that take values out of the graph, and whether a step notices them."""
