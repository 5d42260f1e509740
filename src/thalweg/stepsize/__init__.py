"""How large a step is: the first one, and the next after each."""
