"""The search service: clip-retrieval's HTTP interface and a page of our own, answered from the table by a Searcher."""
