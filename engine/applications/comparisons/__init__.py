"""Comparisons of a descent: baselines, reruns, searches and damage."""
