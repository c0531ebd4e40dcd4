"""Tasks, the losses and metrics that models learn by: a file for each kind of task.

A task (`base.Task`) gives every example a loss of its own, as clipping and weighing by
client require: losses that compare examples with each other cannot be tasks.
"""
