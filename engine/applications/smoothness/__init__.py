"""Smoothness of a training run as a function of its set-up, and the search for a smooth one."""
