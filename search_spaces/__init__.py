"""What can be chosen: architectures as values, and the spaces they are drawn from."""
