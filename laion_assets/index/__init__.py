"""What makes vectors fast to search: HNSW graphs, which partitions have them, and trials of their parameters."""
