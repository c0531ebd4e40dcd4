"""What models learn: a file for each kind of task, and what all of them share.

A task (`base.Task`) gives every example a loss of its own, which is what clipping and
weighing by client need: losses that compare examples with each other are none.
"""
