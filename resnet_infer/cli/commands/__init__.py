"""Implement the commands, one in each module; `cli.main` imports a command when it is called."""
