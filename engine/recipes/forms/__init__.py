"""Recipes as forms: what may be said of each setting, and which of them are fields."""
