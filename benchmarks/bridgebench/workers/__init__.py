"""What runs inside competitors' worker processes. Imports nothing of the bridge."""
