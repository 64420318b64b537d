"""fastgw beside nginx and HAProxy: the same upstream, the same load, the same core.

The steps of a comparison (`run`):

1. `machine`     what this machine is, which tools are missing, how busy it is with other things.
2. `contenders`  fills in the templates of `proxies/` and starts the upstream and all proxies; each
                 proxy, with all its processes, is pinned to one core, upstream and load generator
                 to another.
3. `contenders`  checks that all of them add the same headers, before anything is measured.
4. `rounds`      rounds of each load, interleaved between the proxies, so that a drift of the machine
                 meets all alike; the processor time of the proxy's processes is read before and after.
5. `loads`       one round: wrk or h2load (`generators`) with the connections and bodies of that load.
6. `report`      medians, ratios to nginx in the same round, a table and a JSON file.

`change_latency` and `config_storm` start a real control plane and data plane instead (`gateway`).
"""
