"""Prints the summary that a play hands over, and how long each play took."""

from __future__ import annotations

import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: phases
type: aggregate
short_description: Print a summary and the seconds of each play
description:
  - A play is a phase. Plays without a name are counted with the one before.
  - The summary is the text in the statistic lakehouse_summary (module set_stats).
"""


class CallbackModule(CallbackBase):
    """The callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "phases"

    def __init__(self, display=None, options=None):  # type: ignore[no-untyped-def]
        super().__init__(display=display, options=options)
        self.began: list[tuple[str, float]] = []

    def v2_playbook_on_play_start(self, play):  # type: ignore[no-untyped-def]
        """Record when a play begins."""
        self.began.append((play.get_name().strip(), time.monotonic()))

    def v2_playbook_on_stats(self, stats):  # type: ignore[no-untyped-def]
        """Print the summary, and the seconds of each play."""
        summary = stats.custom.get("_run", {}).get("lakehouse_summary")
        if summary:
            self._display.display(summary)
        if not self.began:
            return
        ends = [moment for _, moment in self.began[1:]] + [time.monotonic()]
        rows = [
            (name, end - start, end - self.began[0][1]) for (name, start), end in zip(self.began, ends, strict=True)
        ]
        width = max(len(name) for name, _, _ in rows)
        self._display.display(f"\n{'Phase':{width}}  seconds    in all")
        for name, seconds, total in rows:
            self._display.display(f"{name:{width}}  {seconds:7.1f}  {total:8.1f}")
