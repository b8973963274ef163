"""What a run is about: data, model, losses and output, made from a recipe."""
