"""The benchmarks, each compared with its peers: `python -m benchmarks`. The product imports none of them."""
