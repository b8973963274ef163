"""How far a computation is: what the engine notes of it, and who reads that."""
