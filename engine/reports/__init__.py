"""Parts that all reports share: canvas, page, units and intervals."""
