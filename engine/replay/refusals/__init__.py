"""Runs that are refused after a look at one or a few of their steps, before the run is made."""
