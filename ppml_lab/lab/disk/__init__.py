"""What a sweep writes and reads back: records, checkpoints, parameters, provenance."""
