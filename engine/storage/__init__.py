"""Bytes on any fsspec URL: places, JSON records, and rows of states."""
