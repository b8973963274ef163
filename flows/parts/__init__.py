"""Parts that several flows have."""
