"""What wrk and h2load print is read rightly, and summed up rightly; the outputs are real, shortened ones."""

from __future__ import annotations

import pytest

from bench.load.generators import parse_h2load, parse_wrk, percentile
from bench.load.machine import BenchError
from bench.load.rounds import Sample, summarise

WRK = """\
Running 1s test @ http://127.0.0.1:18400/
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   130.69us  361.38us   5.20ms   95.88%
    Req/Sec    88.65k    15.08k  105.20k    80.00%
  87961 requests in 1.00s, 29.78MB read
Requests/sec:  87871.72
Transfer/sec:     29.75MB
wrk-report {"requests":87961,"bytes":31226155,"duration_us":1001016,"p50_us":67,"p99_us":2054,\
"status_errors":0,"socket_errors":0}
"""

WRK_ALL_REFUSED = """\
  86968 requests in 1.10s, 25.55MB read
  Non-2xx or 3xx responses: 86968
Requests/sec:  79089.57
Transfer/sec:     23.23MB
wrk-report {"requests":86968,"bytes":26786144,"duration_us":1099614,"p50_us":84,"p99_us":2758,\
"status_errors":86968,"socket_errors":0}
"""

H2LOAD = """\
starting benchmark...
spawning thread #0: 4 total client(s). 12 total requests
Application protocol: http/1.1
progress: 100% done

finished in 3.32ms, 3613.37 req/s, 1.22MB/s
requests: 12 total, 12 started, 12 done, 12 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 12 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 4.16KB (4260) total, 1.36KB (1392) headers (space savings 0.00%), 2.34KB (2400) data
                     min         max         mean         sd        +/- sd
time for request:       52us      1.34ms       851us       500us    75.00%
time for connect:       97us       383us       222us       120us    50.00%
time to 1st byte:     1.29ms      1.54ms      1.38ms       111us    75.00%
req/s           :     974.97     1101.82     1056.52       55.85    75.00%
"""

H2LOAD_LOG = """\
1795414725433454\t200\t1118
1795414725433447\t200\t1155
1795414725433438\t200\t1176
1795414725433461\t200\t1158
1795414725434598\t200\t532
1795414725434617\t200\t1283
1795414725434606\t200\t1311
1795414725435138\t200\t814
1795414725434622\t200\t1335
1795414725435914\t200\t52
1795414725435921\t200\t109
1795414725435960\t200\t170
"""

H2LOAD_ALL_404 = """\
finished in 1.53ms, 2616.09 req/s, 786.87KB/s
requests: 4 total, 4 started, 4 done, 0 succeeded, 4 failed, 0 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 4 4xx, 0 5xx
"""

H2LOAD_404_LOG = """\
1795414725450583\t404\t331
1795414725450595\t404\t399
1795414725450998\t404\t255
1795414725450984\t404\t297
"""

H2LOAD_NO_LISTENER = """\
finished in 2.92ms, 0.00 req/s, 0B/s
requests: 4 total, 0 started, 0 done, 0 succeeded, 4 failed, 4 errored, 0 timeout
status codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_wrk_counts_come_from_the_line_of_our_script() -> None:
    result = parse_wrk(WRK)
    assert (result.requests, result.failed) == (87961, 0)
    assert result.duration_s == pytest.approx(1.001016)
    assert (result.p50_us, result.p99_us) == (67, 2054)


def test_wrk_answers_other_than_2xx_and_3xx_are_failures() -> None:
    result = parse_wrk(WRK_ALL_REFUSED)
    assert (result.requests, result.failed) == (0, 86968)


def test_wrk_without_our_line_is_refused_with_what_it_said() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_h2load_counts_come_from_the_report_and_percentiles_from_the_log() -> None:
    result = parse_h2load(H2LOAD, H2LOAD_LOG)
    assert (result.requests, result.failed) == (12, 0)
    assert result.duration_s == pytest.approx(0.00332)
    assert (result.p50_us, result.p99_us) == (1118, 1335)


def test_h2load_404_is_a_failure() -> None:
    result = parse_h2load(H2LOAD_ALL_404, H2LOAD_404_LOG)
    assert (result.requests, result.failed) == (0, 4)


def test_h2load_without_one_answer_is_refused() -> None:
    with pytest.raises(BenchError, match="no request was answered"):
        parse_h2load(H2LOAD_NO_LISTENER, "")


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 10.0), (25, 10.0), (26, 20.0), (50, 20.0), (75, 30.0), (99, 40.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], percent) == expected


def test_ratios_are_taken_within_a_round() -> None:
    """The machine is twice as slow in the second round: the ratio does not see it."""
    rounds = [
        [_sample("nginx", 10.0), _sample("fastgw", 11.0)],
        [_sample("fastgw", 22.0), _sample("nginx", 20.0)],
    ]
    nginx, fastgw = summarise(rounds)
    assert (nginx.contender, nginx.ratio, nginx.cpu_us) == ("nginx", 1.0, 15.0)
    assert (fastgw.contender, fastgw.cpu_us_least, fastgw.cpu_us_most) == ("fastgw", 11.0, 22.0)
    assert fastgw.ratio == pytest.approx(1.1)


def test_without_nginx_there_is_no_ratio() -> None:
    (fastgw,) = summarise([[_sample("fastgw", 11.0)]])
    assert fastgw.ratio is None


def _sample(contender: str, cpu_us: float) -> Sample:
    return Sample(
        contender=contender,
        requests=1000,
        failed=0,
        requests_per_s=1000.0,
        cpu_us=cpu_us,
        p50_us=1.0,
        p99_us=2.0,
        busy_share=1.0,
        foreign_share=0.0,
        rss_mib=1.0,
    )
