"""Data sets of examples in classes, which packages ship or people have on disk."""
