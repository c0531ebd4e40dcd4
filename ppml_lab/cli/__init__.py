"""The commands of `ppml-lab`, one file each; heavy imports are inside functions so that
`--help` is quick.
"""
