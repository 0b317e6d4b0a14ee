"""The CLIP encoders and the ClickHouse functions that call them."""
