"""Problems: data, model, losses and output of a run, made from a recipe."""
