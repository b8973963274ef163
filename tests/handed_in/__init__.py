"""What people hand in: what works as the plain form does, and what is refused by one message."""
