-- Who has the most over TCP. After VpcFlowLogsTopTCPTraffic.
SELECT srcaddr, dstaddr, sum(bytes) AS bytes, sum(packets) AS packets
FROM vpc_flow_logs
WHERE protocol = 6
GROUP BY srcaddr, dstaddr
ORDER BY bytes DESC, srcaddr, dstaddr
LIMIT 50
