"""Prefect's server for a command: started where there is none, its settings, its processes."""
