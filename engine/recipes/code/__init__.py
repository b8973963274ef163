"""Code of users, beside a recipe or installed: finding, digesting, loading and isolating it."""
