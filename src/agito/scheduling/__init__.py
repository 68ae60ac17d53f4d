"""Which groups are outstanding, when each is due, and which cells the next tasks come from."""
