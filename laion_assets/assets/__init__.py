"""The Dagster layer: one file an asset, its checks beside it. The work itself is done by the rooms below."""
