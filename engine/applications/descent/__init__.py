"""Metagradient descent: its outer loop, its record and its report."""
