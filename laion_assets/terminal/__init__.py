"""What the commands do and show. The commands themselves, with their options, are in cli.py."""
