"""What the command line does and shows. The commands themselves, with their options, are in cli.py."""
