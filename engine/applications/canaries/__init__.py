"""How much a trained model betrays of single examples."""
