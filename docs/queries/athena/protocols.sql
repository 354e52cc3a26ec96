-- What it is: by family and protocol.
SELECT type, protocol, count(*) AS records, sum(packets) AS packets, sum(bytes) AS bytes
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY type, protocol
ORDER BY bytes DESC, type, protocol
