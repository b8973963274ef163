"""The outer loop: what a metagradient descent leaves, and its report."""
