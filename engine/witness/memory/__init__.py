"""What functions of the user keep between two calls, outside of the state."""
