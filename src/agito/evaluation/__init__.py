"""What policies and scripts come to."""
