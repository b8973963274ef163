"""Privacy canaries: how much a trained model reveals about single training examples."""
