"""What every report is made of: canvas, page, units and intervals."""
