"""Schedules carried out: training, replay and the reverse sweep; the call for notebooks."""
