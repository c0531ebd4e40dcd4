"""Computing on shares: programs whose inputs no party knows."""
