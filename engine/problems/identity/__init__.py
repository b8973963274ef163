"""What identifies a problem's code besides its files: what it computes, and modules elsewhere."""
