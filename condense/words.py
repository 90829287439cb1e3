"""Numbers of things, as people tell them."""


def counted(number: int, thing: str, things: str = "") -> str:
    """A number of things; `things` is their plural where it is not `thing` with an s.

    >>> counted(1, "network"), counted(1200, "network"), counted(2, "class", "classes")
    ('1 network', '1,200 networks', '2 classes')
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
