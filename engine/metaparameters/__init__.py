"""z, what a run is differentiated by: its kinds, and how an outer step moves them."""
