"""How the embedded models were made: data, networks, training and export.

Nothing of the pipeline needs it: the finished weights come with the package.
"""
