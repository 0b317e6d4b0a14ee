"""The search service: clip-retrieval's HTTP interface and a page of our own. A Searcher answers from the table."""
