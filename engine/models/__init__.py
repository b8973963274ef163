"""Models that ship with the engine, and their losses."""
