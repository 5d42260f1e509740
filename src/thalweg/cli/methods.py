"""`thalweg methods`."""

from __future__ import annotations


def methods() -> None:
    """List the numerical methods, and when to use which.

    Give one of the names to `thalweg train` as `--set solver.method=NAME`, or to
    `thalweg.solve_ivp` as `method=NAME`.

    For example: `thalweg methods`
    """
    from ..external.methods import external_methods
    from ..methods import methods as all_methods
    from .console import console, plain_table

    table = plain_table("method", "order", "stages", "kind", "steps", "when to use it")
    for column in table.columns[:5]:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    for method in all_methods():
        steps = "adaptive" if method.adaptive else "equal"
        table.add_row(method.name, str(method.order), str(method.stages), method.kind, steps, method.summary)
    console().print(table)

    others = plain_table("other libraries' solvers", "orders", "when to use it")
    for column in others.columns[:2]:
        column.no_wrap = True
    for external in external_methods():
        others.add_row(external.name, external.orders, external.summary)
    console().print(others)
