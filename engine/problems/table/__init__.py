"""Rows of tables as problems: what a file holds, and what is made of it."""
