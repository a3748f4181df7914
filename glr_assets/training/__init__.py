"""From curated photographs to the network that turns a photograph into a vector.

`photographs` prepares and varies pictures, `model` is the network, `margin` the head it learns under,
`fitting` drives the training, `embedder` keeps, loads and applies what came out.
"""
