"""The native engine: the whole solve and its exact gradient in one call."""
