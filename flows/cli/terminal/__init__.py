"""Output of a command in a terminal, and how the command ends there."""
