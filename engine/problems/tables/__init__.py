"""Tables with a column of labels: reading them, their cells as numbers, their labels."""
