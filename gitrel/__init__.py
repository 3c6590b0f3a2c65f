"""gitrel: build, release and run with git itself. `docs/architecture.md` says where things are."""

__version__ = "0.1.0"
