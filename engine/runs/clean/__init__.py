"""Cleaning a store: what a clean may free, and how it is freed beside runs that are at work."""
