"""Parts of finished runs made again, and what came of it: what certificates are made of."""
