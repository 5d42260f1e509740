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

    listed = all_methods()
    kinds = dict.fromkeys(method.kind for method in listed)
    width = max(len(name) for name in (*kinds, *(method.name for method in listed)))
    for kind in kinds:
        table = plain_table(kind, "order", "stages", "steps", "when to use it")
        table.collapse_padding = True
        for column in table.columns[:4]:
            column.no_wrap = True
        for column in table.columns[1:3]:
            column.justify = "right"
        table.columns[0].min_width, table.columns[3].min_width = width, len("adaptive")
        for method in listed:
            if method.kind == kind:
                steps = "adaptive" if method.adaptive else "equal"
                table.add_row(method.name, str(method.order), str(method.stages), steps, method.summary)
        console().print(table)
        console().print()

    others = plain_table("other libraries' solvers", "orders", "when to use it")
    for column in others.columns[:2]:
        column.no_wrap = True
    for external in external_methods():
        others.add_row(external.name, external.orders, external.summary)
    console().print(others)
