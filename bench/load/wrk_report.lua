-- Prints what wrk counted as one line of JSON behind a mark of its own; generators.py reads it.
-- Latencies are microseconds, corrected for nothing: wrk is a closed loop.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'wrk-report {"requests":%d,"bytes":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"status_errors":%d,'
            .. '"socket_errors":%d}\n',
        summary.requests, summary.bytes, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
