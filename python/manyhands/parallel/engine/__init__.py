"""The Python executor of an engine: a process that `manyhands engine` starts, and that runs what arrives there.

The engine itself, in C, speaks with the controller and watches this process; the two are joined by a pipe in shared memory.
"""
