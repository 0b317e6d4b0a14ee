"""One shard's files: npy and metadata readers, checks, the merge, the store. No database here."""
