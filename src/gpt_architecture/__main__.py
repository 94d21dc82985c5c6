"""`python -m gpt_architecture` : la même chose que la commande `gpt-architecture`."""

from gpt_architecture.main import main

if __name__ == "__main__":
    main()
