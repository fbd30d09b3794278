"""Does all of it hold: laws over the registries, and the judges that they are held to.

`judge.py` and `loops.py` compute, count and walk by themselves; `cases.py` draws what laws are tried on; `laws.py` is the
table of laws; `running.py` tries them. A new page, modifier, block or mask is tried by existing.
"""
