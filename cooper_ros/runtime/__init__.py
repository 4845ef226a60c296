"""How the network runs: contexts with a cache, and what an engine may ask of them."""
