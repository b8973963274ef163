"""A step of the user's own module beside a step of the engine, before anything is believed."""
