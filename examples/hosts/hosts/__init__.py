"""An example of another Dagster project that contains one dataset of embeddings."""
