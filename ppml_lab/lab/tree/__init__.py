"""What a setup is made of: parts, what their fields hold, and how both are named."""
