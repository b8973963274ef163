"""Runs as they lie in a store, whatever their kind: listed, shown, budgeted and cleaned."""
