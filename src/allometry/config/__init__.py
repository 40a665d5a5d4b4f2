"""What determines a run, frozen and hashed into its identity: model, task, training, trainer; and a study's settings.

This room imports no torch.
"""
