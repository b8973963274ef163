"""How smooth a training run is as a function of its set-up, and the search for a smooth one."""
