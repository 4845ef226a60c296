"""The network cut into graphs for other runtimes: what each takes, gives and means.

Six graphs, each exported once from the one network definition in ``cooper_ros.model``:

=========== ===================================================================================
vision      patches of a picture -> decoder tokens (tower, connector, positions)
understand  embedded tokens over a key-value cache -> logits of the last one, new keys and values
latents     latent tokens at a flow time -> decoder tokens
flow        markers and latents over a context -> velocities, new keys and values
vae_encode  picture -> moments of its latents
vae_decode  latents -> picture
=========== ===================================================================================

Scheduler, guidance, sampling and the word embedding table stay outside. Prefill and decode are
one graph at different lengths, so that a compiled engine holds the weights once. ``flow`` also
prefills clean latents, through its keys and values. Its two marker tokens need the
understanding expert at every layer (they look at the latents, so nothing of them can be computed
ahead); compiled engines cannot share weights, so the understanding expert exists twice when both
``understand`` and ``flow`` are compiled.
"""
