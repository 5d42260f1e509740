"""Solvers of other libraries, on the CPU: SciPy's and SUNDIALS'."""
