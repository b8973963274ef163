"""Execution of tasks: on which workers, with which retries, and how progress is reported."""
