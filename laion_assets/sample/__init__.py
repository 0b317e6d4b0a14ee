"""Sample shards in LAION's layout, and the made-up world of words and vectors behind them and the sample CLIP model."""
