"""What every room shares: the field adapter, statuses, the solution, norms and the arithmetic of steps."""
