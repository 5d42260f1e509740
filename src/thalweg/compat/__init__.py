"""Other libraries' functions, each a call of `solve_ivp`: change an import, and keep the rest of a program."""
