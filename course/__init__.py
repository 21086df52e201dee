"""The course: the assignment to hand out, and a grader that judges what submitted code does."""
