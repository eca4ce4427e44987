-- One line of numbers instead of a page of prose. Defines no request function: wrk then sends the same bytes every time
-- and runs no script while it measures.
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    "report requests=%d duration_us=%d connect=%d read=%d write=%d status=%d timeout=%d p50_us=%d p99_us=%d\n",
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
