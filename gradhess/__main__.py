"""``python -m gradhess``."""

from gradhess.cli import main

if __name__ == "__main__":
    main()
