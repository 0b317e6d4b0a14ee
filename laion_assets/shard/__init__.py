"""One shard's files: npy and metadata readers, what is wrong with them, the merge, the store. No database here."""
