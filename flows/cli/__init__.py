"""The command line, and what it prints."""

from flows.cli.server.working_folder import leave_out

leave_out()  # before any part of a command loads Prefect
