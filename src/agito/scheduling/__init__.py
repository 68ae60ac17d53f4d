"""Which groups are out, when they are due, and from which cells they come."""
