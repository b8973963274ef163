"""Planning: the predicted cost of a run, and the fastest schedule that fits."""
