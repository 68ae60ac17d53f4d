"""Code on the other side: the zygote and every sandbox's pid 1. Standard library only; imported there, not
here.
"""
