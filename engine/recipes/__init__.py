"""Everything that can be set in a recipe. Nothing here knows tensors or stored files."""
