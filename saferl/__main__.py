"""``python -m saferl``."""

from saferl.cli import main

if __name__ == "__main__":
    main()
