"""ClickHouse: connection, schema, loading, verifying. All SQL of the project is in table/, index/ and searching/."""
