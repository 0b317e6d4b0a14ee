"""Sample shards in LAION's layout, and the world of words and vectors that they and the sample CLIP model come from."""
