"""Two hosts that a slow link joins, on one machine, for `benchmarks.network`.

They are network namespaces with a throttled pair of interfaces where that is permitted; else two processes of this host
that talk through a throttling proxy. A worker runs in each.
"""
