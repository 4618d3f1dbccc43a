"""Stable Video-Driven Portraits: animate one portrait with a driving video on a Stable Diffusion 3.5 Medium model.

@title: Stable Video-Driven Portraits
@nickname: SVDP
@description: Animate one portrait with the eyes, nose and mouth of a driving video.

Importing this package imports nothing else; take what you need from `svdp.model`, `svdp.signals`, `svdp.training`,
`svdp.evaluation` or the `svdp` command.
"""
