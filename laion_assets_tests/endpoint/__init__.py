"""A loopback server with ClickHouse's HTTP interface, backed by one chDB. Only tests use it."""
