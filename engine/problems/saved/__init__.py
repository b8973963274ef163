"""Data sets of the package ``datasets``, as files of its own kind, or by name."""
