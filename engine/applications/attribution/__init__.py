"""Attribution: which training examples caused an output of the trained model."""
