"""The command as a module: `python -m thalweg`."""

from .cli.main import main

if __name__ == "__main__":  # and not where a process that compares imports it anew
    main()
