"""Trees of parts: parts, the values of their fields, key paths and identities."""
