"""The benchmarks, each against its peers: `python -m benchmarks`. Nothing of the product imports them."""
