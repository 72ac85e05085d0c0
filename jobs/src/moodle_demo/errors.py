"""The one exception the command line turns into a message and an exit code."""


class DemoError(Exception):
    """What was wrong, where, and what to do, in one message. Exit code 1: failed; 2: bad usage or configuration."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(DemoError):
    """Bad input, found before the database was touched."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)
