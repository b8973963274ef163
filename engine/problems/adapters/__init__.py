"""Training loops of other libraries as problems: a ``Trainer`` of transformers, and Lightning's.

Neither library is imported here: what is handed in is known by its classes' names and attributes.
"""
