"""A JAX laboratory that measures what privacy costs in machine learning."""
