"""A judge for tests of the frame: what a submission defines as `judged` is called for each item."""

from course.findings import ITEMS, Finding


def judge(names, seed=0, items=ITEMS):
    """A finding an item, in full, with what `judged(item)` returned as what was seen."""
    for item in items:
        if item != "loads":
            seen = names["judged"](item) if "judged" in names else f"seed {seed}"
            yield seen if isinstance(seen, Finding) else Finding(item, 1.0, True, str(seen), "")
