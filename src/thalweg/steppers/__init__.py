"""How a family of methods takes one step."""
