"""Prefect tasks: each is one decorator and one engine call."""
