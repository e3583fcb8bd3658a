"""The weights of a supernet and the mathematics of training them."""
