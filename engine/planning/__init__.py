"""What a run will cost, and the fastest schedule that fits."""
