"""Applications: each folder answers one question, from the stages of its run to its report."""
