"""Units of work: named by content, made once, committed and found again."""
