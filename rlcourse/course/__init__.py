"""For readers and instructors: the package's own source on the page, and answers checked as the package is.

::

    from rlcourse.course import check, show
    show(expectile_loss)          # the lines that really run
    check(my_answer)              # the verdict on an exercise, found by the function's name
"""

from rlcourse.course.checking import check, check_file
from rlcourse.course.show import show

__all__ = ["check", "check_file", "show"]
