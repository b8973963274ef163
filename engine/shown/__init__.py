"""Display of objects in a terminal and in a notebook: in a line, and as tables."""
