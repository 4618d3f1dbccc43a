"""Training data: where samples come from, how shards are built, and the windows drawn from them."""
