"""What the command line looks like. A command imports what it does when it is called, so the others start quickly."""
