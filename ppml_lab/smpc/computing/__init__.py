"""Computing on shares: protocols and programs whose inputs no party knows."""
