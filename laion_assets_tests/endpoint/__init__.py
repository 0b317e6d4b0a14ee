"""A loopback server that speaks ClickHouse's HTTP interface over one chDB. Tests use it, the product never."""
