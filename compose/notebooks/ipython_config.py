"""What every kernel starts with."""

c = get_config()  # type: ignore[name-defined]  # noqa: F821
c.InteractiveShellApp.extensions = ["lakehouse_notebooks"]
