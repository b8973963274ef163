"""The code of users: found beside a recipe or installed, digested, loaded, kept apart."""
