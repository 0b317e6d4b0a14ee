"""Tests of the search service: real HTTP on loopback, the real engine, a real browser."""
