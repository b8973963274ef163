"""How tasks are carried out: where, how often, and what people hear of it."""
