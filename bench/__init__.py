"""The benchmark: what a session costs and how punctual it is, beside the AWS SDK used as in AWS's samples.

`python -m bench` runs each side in a process of its own, against a server in a third (`bench.server`), over
TLS on this machine. It measures whoever runs it, no service: take the ratios from it, and never the figures.
"""
