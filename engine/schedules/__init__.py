"""Reverse schedules: ways to walk a run backwards, on step numbers alone."""
