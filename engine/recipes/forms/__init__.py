"""Recipes as forms: the schema of each setting, and the settings that are fields."""
