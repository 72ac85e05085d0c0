"""Cache the packages, classes and static methods of Java that Py4J has looked up.

Py4J asks Java at every mention, and pyspark mentions some with each column that it makes. For a name without a package
(functions, SparkSession) Java then looks into every package that pyspark imports, and for each of those into every jar,
of which there are hundreds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from py4j.java_gateway import JavaClass, JavaMember, JavaPackage, JVMView


@functools.cache
def remember() -> None:
    """Keep what is looked up from now on in the object that was asked. Values of static fields are asked for each time."""
    for kind in (JVMView, JavaPackage, JavaClass):
        kind.__getattr__ = _remembering(kind.__getattr__)


def _remembering(ask: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    @functools.wraps(ask)
    def asked_once(owner: Any, name: str) -> Any:
        found = ask(owner, name)
        if isinstance(found, (JavaPackage, JavaClass, JavaMember)):
            vars(owner)[name] = found
        return found

    return asked_once
