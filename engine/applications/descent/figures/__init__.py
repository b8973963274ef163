"""The sections of a descent's report: one file each, whose ``section`` may return none."""
