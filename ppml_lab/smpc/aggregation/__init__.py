"""Secure sums: what clients send is added up, and only the sum is opened."""
