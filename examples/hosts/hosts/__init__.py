"""Someone else's Dagster project, which has one dataset of embeddings in it."""
