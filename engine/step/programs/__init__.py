"""Compiled programs of a step: how they are read, divided, kept between processes and paid for."""
