"""Secure aggregation: the server adds up what clients send and opens only the sum."""
