"""One node with its programs as processes, and what is done to them."""
