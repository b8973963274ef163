"""Questions, each from its stages to its report."""
