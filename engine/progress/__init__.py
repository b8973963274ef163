"""Progress of a computation: how the engine notes it, and who reads the notes."""
