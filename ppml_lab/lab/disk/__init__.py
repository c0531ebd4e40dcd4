"""Files of a sweep: records, checkpoints, kept parameters and provenance."""
