"""Same inputs, same bits: seeds, switches, fingerprints, and the process that computes."""
