"""How to walk a run backwards, on step numbers alone."""
