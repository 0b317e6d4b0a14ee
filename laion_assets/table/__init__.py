"""ClickHouse: connection, schema, loading, indexes, searching. All SQL of the project is in this room."""
