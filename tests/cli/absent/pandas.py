"""Agito does not depend on pandas, which pyarrow imports where it is found. It is not found by the commands
that are tested.
"""

raise ImportError("pandas is not there for the commands that are tested")
