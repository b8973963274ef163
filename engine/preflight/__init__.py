"""Preflight: may this run's metagradient be trusted? Tried on short twins, in seconds."""

from engine.preflight.checkup import check, checked
from engine.preflight.verdict import Check, CheckReport, Verdict

__all__ = ["Check", "CheckReport", "Verdict", "check", "checked"]
