"""`python -m betoken`."""

from betoken.cli import main

if __name__ == "__main__":
    main()
